"""The p-th power of the error: p below 2 forgives outliers, p above 2 chases them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Controls
from mnemos.memory.objective.base import Objective


@dataclass(frozen=True)
class Lp(Objective):
    """loss = sum_i |r_i|^p, r = M(k) - v, with slope p sign(r_i) |r_i|^(p-1) (arXiv 2504.13173, eqs. 10-12).

    p >= 1: 1 stores directions only, 2 is twice `L2`, 3 is Moneta's. smooth: |r| is read as sqrt(r^2 + smooth), the
    paper's smoothing (it uses 1e-6), and sign(r) as r over that. Without it the slope at r = 0, and its derivative
    there where p < 2, are taken to be 0; for 1 < p < 2 that derivative is unbounded nearby, and for p = 1 the slope
    jumps.
    """

    p: float = 3.0
    smooth: float = 0.0
    coordinatewise = True

    def __post_init__(self) -> None:
        expect(math.isfinite(self.p) and self.p >= 1, f"Lp(p=) is a power of at least 1; got {self.p}.")
        expect(
            math.isfinite(self.smooth) and self.smooth >= 0,
            f"Lp(smooth=) is a number of at least 0; got {self.smooth}.",
        )

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        r = prediction - value
        if self.smooth or self.p == 2:
            return (r.square() + self.smooth).pow(self.p / 2).sum(-1)
        return torch.where(r == 0, 0.0, torch.where(r == 0, 1.0, r.abs()).pow(self.p)).sum(-1)

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        r = prediction - value
        if self.smooth or self.p == 2:
            return self.p * r * (r.square() + self.smooth).pow(self.p / 2 - 1)
        return self.p * r.sign() * torch.where(r == 0, 1.0, r.abs()).pow(self.p - 1)
