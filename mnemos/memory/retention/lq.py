"""Weights normalised by their own q-norm, the retention of Moneta."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retention.mirror import Mirror


@dataclass(frozen=True)
class Lq(Mirror):
    """A_t = decay_t A_t-1 + step_t and, with the q-norm of a head's whole matrix,

        W_t = A_t / |A_t|_q^(q-2)                               as the paper states it (arXiv 2504.13173, eq. 24)
        W_t = sign(A_t) |A_t|^(q-1) / |A_t|_q^(q-2)             exact=True, the gradient of |A|_q^2 / 2

    The second is the mirror map of the regulariser |W|_p^2 / 2 with 1/p + 1/q = 1, of which the paper's form drops the
    elementwise power. q >= 2; at 2 both are W = A. The paper's form has degree 3 - q: at q = 4 a large A is a small W
    and the map is its own inverse, so that a state near zero stands for huge weights. epsilon, added to the norm,
    bounds them: use a larger one where the initial weights may be zero.

    decay: a control per token and head, or False for none.
    """

    q: float = 4.0
    exact: bool = False
    epsilon: float = 1e-6
    decay: bool = True

    def __post_init__(self) -> None:
        expect(math.isfinite(self.q) and self.q >= 2, f"Lq(q=) is a number of at least 2; got {self.q}.")
        expect(math.isfinite(self.epsilon) and self.epsilon > 0, f"Lq(epsilon=) must be positive; got {self.epsilon}.")

    def link(self, state: Tensor) -> Tensor:
        raised = _power(state, self.q - 1) if self.exact else state
        return raised * self._norm(state, self.q).pow(2 - self.q)

    def unlink(self, weight: Tensor) -> Tensor:
        if self.exact:
            p = self.q / (self.q - 1)
            return _power(weight, p - 1) * self._norm(weight, p).pow(2 - p)
        if self.q == 3:  # every A of the same direction stands for the same W
            return weight
        return weight * self._norm(weight, self.q).pow((self.q - 2) / (3 - self.q))

    def _norm(self, x: Tensor, q: float) -> Tensor:
        largest = x.detach().abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        total = (x / largest).abs().pow(q).sum((-2, -1), keepdim=True)
        return largest * torch.where(total > 0, total, 1.0).pow(1 / q) * (total > 0) + self.epsilon


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x|^exponent, with derivative 0 at 0."""
    return x.sign() * torch.where(x == 0, 1.0, x.abs()).pow(exponent)
