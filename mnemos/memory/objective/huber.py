"""Huber's loss: quadratic near zero, linear far out, so that an outlier writes no more than `delta` a channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.memory.declaration import expect
from mnemos.memory.objective.base import Objective
from mnemos.memory.protocol import Controls


@dataclass(frozen=True)
class Huber(Objective):
    """loss = sum_i h(r_i), r = M(k) - v, h(r) = r^2/2 if |r| <= delta else delta (|r| - delta/2).

    The coordinate form of the Miras paper (arXiv 2504.13173, eqs. 13-14). delta > 0; towards infinity it is L2.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        expect(self.delta > 0, f"Huber(delta=) must be positive; got {self.delta}.")

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        size = (prediction - value).abs()
        return torch.where(size <= self.delta, 0.5 * size.square(), self.delta * (size - 0.5 * self.delta)).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return (prediction - value).clamp(-self.delta, self.delta)
