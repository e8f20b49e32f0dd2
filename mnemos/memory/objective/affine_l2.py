"""Squared error after an affine map of the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.control import Control, Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class AffineL2(Objective):
    """loss = 1/2 |gain * M(k) + shift - v|^2, gain and shift being controls of the value channels (TTT, arXiv
    2407.04620, where they are the learned affine map after the norm: the layer maps what is read likewise)."""

    @property
    def controls(self) -> tuple[Control, ...]:
        return (
            Control("gain", "value", -math.inf, math.inf, "factor of the prediction"),
            Control("shift", "value", -math.inf, math.inf, "what is added to the prediction"),
        )

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return 0.5 * (controls["gain"] * prediction + controls["shift"] - value).square().sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        return controls["gain"] * (controls["gain"] * prediction + controls["shift"] - value)
