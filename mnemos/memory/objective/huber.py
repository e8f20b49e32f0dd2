"""Huber's loss: quadratic near zero, linear far out, so that an outlier writes a bounded amount."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class Huber(Objective):
    """Half the squared error up to a threshold delta, and a multiple of the error's size beyond (arXiv 2504.13173,
    eqs. 13-16). With r = M(k) - v, the slope is

        form="coordinate"   clip(r_i, -delta, delta)                    each channel has its own threshold
        form="norm"         r min(1, delta / |r|)                       one threshold for the length of r
        form="mixture"      r if |r| <= delta, else delta sign(r_i)     Yaad's; it jumps where |r| = delta

    and the loss is r^2/2 inside and delta (size - delta/2) outside, size being |r_i|, |r| or sum_i |r_i|.

    smooth: in the mixture |r_i| is read as sqrt(r_i^2 + smooth) and sign(r_i) as r_i over that, the paper's smoothing.
    delta > 0, or None for a control per token and head, in [0, inf). Towards infinity all three are L2; 0 writes
    nothing.
    """

    delta: float | None = 1.0
    form: Literal["coordinate", "norm", "mixture"] = "coordinate"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        expect(
            self.delta is None or self.delta > 0,
            f"Huber(delta=) must be positive, or None for a control per token; got {self.delta}.",
        )
        forms = ("coordinate", "norm", "mixture")
        expect(self.form in forms, f"Huber(form=) is one of {forms}; got {self.form!r}.")
        expect(
            self.smooth == 0 or (self.form == "mixture" and 0 < self.smooth < math.inf),
            f'Huber(smooth=) is a number of at least 0 and for form="mixture" only; got {self.smooth}.',
        )

    @property
    def coordinatewise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.form == "coordinate"

    @property
    def controls(self) -> tuple[Control, ...]:
        if self.delta is not None:
            return ()
        return (Control("delta", "head", 0.0, math.inf, "size of the error from which it counts linearly"),)

    def _threshold(self, controls: Controls) -> Tensor | float:
        return controls["delta"][..., None] if self.delta is None else self.delta

    def _sizes(self, r: Tensor) -> Tensor:
        return (r.square() + self.smooth).sqrt() if self.smooth else r.abs()

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        r, delta = prediction - value, self._threshold(controls)
        if self.form == "coordinate":
            size = r.abs()
            return torch.where(size <= delta, 0.5 * r.square(), delta * (size - 0.5 * delta)).sum(-1)
        length = norm(r)
        size = length if self.form == "norm" else self._sizes(r).sum(-1, keepdim=True)
        squared = 0.5 * r.square().sum(-1, keepdim=True)
        return torch.where(length <= delta, squared, delta * (size - 0.5 * delta))[..., 0]

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        r, delta = prediction - value, self._threshold(controls)
        if self.form == "coordinate":
            if isinstance(delta, Tensor):
                return torch.minimum(torch.maximum(r, -delta), delta)
            return r.clamp(-delta, delta)
        length = norm(r)
        if self.form == "norm":
            beyond = r * (delta / torch.where(length > 0, length, 1.0))
        else:
            beyond = delta * (r / self._sizes(r) if self.smooth else r.sign())
        return torch.where(length <= delta, r, beyond)


def norm(r: Tensor) -> Tensor:
    """|r| over the last axis, (..., V) -> (..., 1), with derivative 0 at r = 0."""
    squared = r.square().sum(-1, keepdim=True)
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)
