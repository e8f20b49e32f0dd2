"""Weights on a simplex, kept near the ones before by an f-divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Controls
from mnemos.memory.retention.base import Retention

NEWTON_STEPS = 20
SHARE = 1e-8


@dataclass(frozen=True)
class FDivergence(Retention):
    """Every row of W_t minimises -step_t . W + sum W_t-1 f(W / W_t-1) over W >= 0 with sum W = total, which is

        W_t = W_t-1 g(step_t - zeta),   g = (f')^-1,   zeta such that the row sums to `total`

    (arXiv 2504.13173, eq. 18). divergence:

        "kl"            f(x) = x log x          g(y) = exp(y - 1)       the same weights as KL(decay=False)
        "reverse_kl"    f(x) = -log x           g(y) = -1 / y
        "hellinger"     f(x) = (sqrt x - 1)^2   g(y) = 1 / (1 - y)^2
        "chi2"          f(x) = (x - 1)^2        g(y) = max(1 + y / 2, 0)

    zeta is the root of a convex falling function, found by Newton's method from the left and differentiated
    implicitly. A share of 1e-8 of every row is spread evenly, so that no weight is lost for good.

    total: what every row sums to; None is the length of the row. The initial weights times sqrt(in) are taken
    for logits, the state holds W itself.
    """

    divergence: Literal["kl", "reverse_kl", "hellinger", "chi2"] = "chi2"
    total: float | None = 1.0

    def __post_init__(self) -> None:
        known = ("kl", "reverse_kl", "hellinger", "chi2")
        expect(self.divergence in known, f"FDivergence(divergence=) is one of {known}; got {self.divergence!r}.")
        expect(
            self.total is None or (math.isfinite(self.total) and self.total > 0),
            f"FDivergence(total=) is a positive number, or None for the length of a row; got {self.total}.",
        )

    def unlink(self, weight: Tensor) -> Tensor:
        return (weight * math.sqrt(weight.shape[-1])).softmax(-1) * self._total(weight)

    def combine(self, retained: Tensor, step: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        total = self._total(retained)
        shares = self._stepped(retained / total, step)
        shares = shares / shares.sum(-1, keepdim=True)
        return total * ((1 - SHARE) * shares + SHARE / shares.shape[-1])

    def _total(self, weight: Tensor) -> float:
        return float(weight.shape[-1]) if self.total is None else self.total

    def _stepped(self, before: Tensor, step: Tensor) -> Tensor:
        """Shares before (sum 1) -> before * ratio(level - step) with the level at which they sum to 1."""
        if self.divergence == "kl":
            return (before.log() + step).softmax(-1)
        step = step - step.detach().amax(-1, keepdim=True)  # shifts the level only; the gap to it keeps its digits
        with torch.no_grad():
            level = self._below(before, step)
            for _ in range(NEWTON_STEPS):
                ratio, falling = self._ratio(level - step)
                excess = (before * ratio).sum(-1, keepdim=True) - 1
                level = level + excess.clamp(min=0) / (before * falling).sum(-1, keepdim=True)
            _, falling = self._ratio(level - step)
            falling = (before * falling).sum(-1, keepdim=True)
        ratio, _ = self._ratio(level - step)
        # One more Newton step, with gradients: its derivative by `before` and `step` is that of the root.
        level = level + ((before * ratio).sum(-1, keepdim=True) - 1) / falling
        ratio, _ = self._ratio(level - step)
        return before * ratio

    def _below(self, before: Tensor, step: Tensor) -> Tensor:
        """A level at or below the root: by Jensen's inequality, and from the largest single term."""
        mean = (before * step).sum(-1, keepdim=True)
        if self.divergence == "chi2":
            return mean
        alone = step + (before if self.divergence == "reverse_kl" else before.sqrt())
        return torch.maximum(mean + 1, alone.amax(-1, keepdim=True))

    def _ratio(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W_t / W_t-1 where the level exceeds the step by x, and minus its derivative."""
        if self.divergence == "chi2":
            return (1 - x / 2).clamp(min=0), torch.where(x < 2, 0.5, 0.0)
        if self.divergence == "reverse_kl":
            return 1 / x, 1 / x.square()
        return 1 / x.square(), 2 / (x.square() * x)
