"""Squared error: the delta rule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class L2(Objective):
    """loss = 1/2 |M(k) - v|^2: write what is missing only (DeltaNet, Gated DeltaNet, TTT, Titans).

    The half is part of the definition: papers that drop it have twice our rate.
    """

    slope_kind = "identity"

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return 0.5 * (prediction - value).square().sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return prediction - value
