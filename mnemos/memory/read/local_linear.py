"""Local linear regression around the query."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.read.base import Read, masked_softmax


@dataclass(frozen=True)
class LocalLinear(Read):
    """Local linear attention (arXiv 2510.01450): with the softmax weights p_j = softmax_j(scale q . k_j), o = b of

        argmin_b,W  sum_j p_j |v_j - b - W (k_j - q)|^2 + ridge |W|^2

    which is o = mean v + C_vk (C_kk + ridge)^-1 (q - mean k) with means and covariances C under p. Softmax attention
    fits a constant (ridge = infinity); this fits a line, so that values which are an affine function of their keys
    come back exactly as the ridge goes to zero.

    ridge: positive. scale: a number, or None for 1/sqrt(key_dim). Positions, if any, are turned into q and k before.
    """

    ridge: float = 0.01
    scale: float | None = None

    def __post_init__(self) -> None:
        expect(math.isfinite(self.ridge) and self.ridge > 0, f"LocalLinear(ridge=) must be positive; got {self.ridge}.")
        expect(self.scale is None or self.scale > 0, f"LocalLinear(scale=) must be positive; got {self.scale}.")

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return masked_softmax(scores.to(wide(scores)), seen)

    def answer(
        self,
        weights: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lag: Tensor,
        controls: Mapping[str, Tensor],
    ) -> Tensor:
        q, keys, values = (x.to(weights.dtype) for x in (q, keys, values))
        size = keys.shape[-1]
        mean = weights @ keys
        squares = (weights @ (keys[..., :, None] * keys[..., None, :]).flatten(-2)).unflatten(-1, (size, size))
        spread = squares - mean[..., :, None] * mean[..., None, :]
        system = spread + self.ridge * torch.eye(size, dtype=keys.dtype, device=keys.device)
        factor = torch.linalg.cholesky(system)
        along = torch.cholesky_solve((q - mean)[..., None], factor)[..., 0]
        leaning = along @ keys.mT - (along * mean).sum(-1, keepdim=True)
        return (weights * (1 + leaning)) @ values


def wide(x: Tensor) -> torch.dtype:
    """The precision that small systems need."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
