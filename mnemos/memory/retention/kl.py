"""Weights that are probabilities, kept near the ones before by the Kullback-Leibler divergence: Memora's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retention.mirror import Mirror


@dataclass(frozen=True)
class KL(Mirror):
    """W_t = total softmax(decay_t log W_t-1 + step_t) in every row, the minimiser over W >= 0 whose rows sum to `total`
    of the linearised loss + KL(W | W_t-1) / eta + sum W log W / alpha (arXiv 2504.13173, eqs. 19-21, 27).

    Kept as logits A_t = decay_t A_t-1 + step_t: each row's normaliser cancels, and no logarithm is taken. decay, a
    control per token and head, is (1/eta) / (1/alpha + 1/eta): the entropy draws rows towards uniform. False, no
    entropy, is a decay of 1: exponentiated gradient.

    total: what every row sums to; None is the length of the row, so that weights average 1. The initial logits are the
    initial weights times sqrt(in): of variance 1 as structures draw them, for rows near uniform leave the hidden units
    of a network alike.
    """

    total: float | None = 1.0
    decay: bool = True

    def __post_init__(self) -> None:
        expect(
            self.total is None or (math.isfinite(self.total) and self.total > 0),
            f"KL(total=) is a positive number, or None for the length of a row; got {self.total}.",
        )

    def unlink(self, weight: Tensor) -> Tensor:
        return weight * math.sqrt(weight.shape[-1])

    def link(self, state: Tensor) -> Tensor:
        return state.softmax(-1) * (state.shape[-1] if self.total is None else self.total)
