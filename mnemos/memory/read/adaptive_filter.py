"""Attention as a filter: every entry is a noisy observation that gets less certain, or surer, with its age."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect_kind
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read

LEAST = 1e-6
"""The least variance of an observation, and the least number of degrees of freedom a channel."""


@dataclass(frozen=True)
class AdaptiveFilter(Read):
    """Adaptive filter attention (arXiv 2509.04154). The entries observe a state that decays by E = exp(-damping lag)
    and is driven by noise; carried over `lag` tokens, one has the variance and the squared residual

        V = process (1 - E^2) / (2 damping) + source E^2 + anchor,   r_j = |q - E k_j|^2

    and under a Student t distribution of K freedom degrees in K dimensions the weight

        p_j = softmax_j(sharpness (-log V - (freedom + 1) log(1 + r_j / (V K freedom)))),   o = sum_j p_j E v_j

    The six numbers are controls, one a head each. With damping = 0, the variance grows by `process` a token. A state
    that also turns is asked with q, k and v turned back by their positions, and o turned forward (FilterAttention).
    mask: as in Softmax.
    """

    mask: Mask | None = None

    def __post_init__(self) -> None:
        if self.mask is not None:
            expect_kind(self.mask, Mask, "mask", "PowersOfTwo(block=64)")

    @property
    def controls(self) -> tuple[Control, ...]:
        return (
            Control("damping", "head", 0.0, math.inf, "how fast the state decays, a token"),
            Control("process", "head", 0.0, math.inf, "variance that a token adds to the state"),
            Control("source", "head", LEAST, math.inf, "variance of an observation, carried along with it"),
            Control("anchor", "head", LEAST, math.inf, "variance of the query"),
            Control("freedom", "head", LEAST, math.inf, "degrees of freedom a channel"),
            Control("sharpness", "head", 0.0, math.inf, "factor of the log weights"),
        )

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)  # residuals are differences, ages are large
        q, keys = q.to(wide), keys.to(wide)
        own = {name: value[..., None].to(wide) for name, value in controls.items()}
        age = lag.clamp(min=0).to(wide)
        carried = torch.exp(-own["damping"] * age)
        apart = q.square().sum(-1, keepdim=True) + carried.square() * keys.square().sum(-1)[..., None, :]
        apart = (apart - 2 * carried * (q @ keys.mT)).clamp(min=0)
        variance = carried_variance(age, own["damping"], own["process"], own["source"], own["anchor"])
        freedom = own["freedom"]
        surprise = torch.log1p(apart / (variance * freedom * q.shape[-1]))
        return own["sharpness"] * (-torch.log(variance) - (freedom + 1) * surprise)

    def answer(
        self,
        weights: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lag: Tensor,
        controls: Mapping[str, Tensor],
    ) -> Tensor:
        carried = torch.exp(-controls["damping"][..., None].to(weights.dtype) * lag.clamp(min=0))
        return (weights * carried) @ values.to(weights.dtype)


def carried_variance(age: Tensor, damping: Tensor, process: Tensor, source: Tensor, anchor: Tensor) -> Tensor:
    """process (1 - e^-2 damping age) / (2 damping) + source e^-2 damping age + anchor, its limit at damping = 0."""
    x = 2 * damping * age
    small = x < 1e-4
    safe = torch.where(small, 1.0, x)
    mean = torch.where(small, 1 - x / 2 + x.square() / 6, -torch.expm1(-safe) / safe)  # of e^-2 damping s, s < age
    return process * age * mean + source * torch.exp(-x) + anchor
