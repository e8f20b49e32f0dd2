"""The worst squared error over all values near the one that was given."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class RobustShift(Objective):
    """loss = max over |e| <= radius of |M(k) - (v + e)|^2 / 2 = |r|^2/2 + radius |r| + radius^2/2, r = M(k) - v, with
    slope r (1 + radius / |r|) (arXiv 2504.13173, eq. 17).

    radius >= 0, or None for a control per token and head, in [0, inf). 0 is L2. The slope jumps from -radius to
    radius through r = 0; there |r| is read as sqrt(|r|^2 + smooth), so that it passes through 0.
    """

    radius: float | None = 0.1
    smooth: float = 1e-6

    def __post_init__(self) -> None:
        expect(
            self.radius is None or (math.isfinite(self.radius) and self.radius >= 0),
            f"RobustShift(radius=) is a number of at least 0, or None for a control per token; got {self.radius}.",
        )
        expect(
            math.isfinite(self.smooth) and self.smooth > 0,
            f"RobustShift(smooth=) is a positive number; got {self.smooth}.",
        )

    @property
    def controls(self) -> tuple[Control, ...]:
        if self.radius is not None:
            return ()
        return (Control("radius", "head", 0.0, math.inf, "how far the true value may lie from the given one"),)

    def _radius(self, controls: Controls) -> Tensor | float:
        return controls["radius"] if self.radius is None else self.radius

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        squared, radius = (prediction - value).square().sum(-1), self._radius(controls)
        return 0.5 * squared + radius * (squared + self.smooth).sqrt() + 0.5 * radius * radius

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        r, radius = prediction - value, self._radius(controls)
        share = radius / (r.square().sum(-1) + self.smooth).sqrt()
        return r * (1 + share[..., None])
