"""Sparse weights from a dense dual: a weight is zero until its evidence has added up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retention.elastic_net import soft_threshold
from mnemos.memory.retention.mirror import Mirror


@dataclass(frozen=True)
class ElasticNetDual(Mirror):
    """A_t = decay_t A_t-1 + step_t, W_t = sign(A_t) max(|A_t| - threshold, 0): follow the regularised leader with
    |W|^2/2 + threshold |W|_1 (arXiv 2504.13173, eq. 23).

    `ElasticNet` forgets what it set to zero; this one goes on counting. threshold >= 0; 0 is Decay(per="head").
    decay: a control per token and head, or False for none.
    """

    threshold: float = 0.01
    decay: bool = True

    def __post_init__(self) -> None:
        expect(
            math.isfinite(self.threshold) and self.threshold >= 0,
            f"ElasticNetDual(threshold=) is a number of at least 0; got {self.threshold}.",
        )

    def link(self, state: Tensor) -> Tensor:
        return soft_threshold(state, self.threshold)

    def unlink(self, weight: Tensor) -> Tensor:
        return weight + self.threshold * weight.sign()
