"""The dot product: Hebbian learning."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class Dot(Objective):
    """loss = -<M(k), v>: write every pair, whatever is stored already (linear attention, RetNet, GLA, Mamba-2)."""

    slope_kind = "constant"

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return -(prediction * value).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return -value
