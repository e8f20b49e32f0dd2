"""Modern Hopfield networks: what a query finds is asked again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read
from mnemos.memory.read.softmax import check_scores


@dataclass(frozen=True)
class Hopfield(Read):
    """The continuous Hopfield network (arXiv 2008.02217), its patterns the keys k_j and its state the query:

        p = softmax_j(scale q . k_j);   `steps` times: q <- sum_j p_j k_j, p anew;   o = sum_j p_j v_j

    Every update lowers the energy of q (`energy`), whose minima are single patterns where they lie far apart for the
    scale, else means of a few (`metastable_size`) or, at small scales, of all. With steps=0 it is softmax attention. A
    query stops once an update moves its p by at most eps in Euclidean length, whatever the other queries do, so many
    steps mean "until it has converged". Written with v = k, noisy keys come back clean.

    steps: updates before the answer, at least 0. scale: a number, or None for 1/sqrt(key_dim).
    """

    steps: int = 0
    eps: float = 1e-4
    scale: float | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        check_scores(self)
        expect(self.steps >= 0, f"Hopfield(steps=) is a number of updates of at least 0; got {self.steps}.")
        expect(math.isfinite(self.eps) and self.eps >= 0, f"Hopfield(eps=) is at least 0; got {self.eps}.")

    @property
    def plain(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.steps == 0

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        weights = self.weigh(self.score(q, keys, lag, controls), seen, lag, controls)
        going = torch.ones_like(weights[..., :1], dtype=torch.bool)
        for _ in range(self.steps):
            later = self.weigh(self.score(weights @ keys, keys, lag, controls), seen, lag, controls)
            moved = (later - weights).detach().square().sum(-1, keepdim=True) > self.eps**2
            weights = torch.where(going, later, weights)
            going = going & moved
            if not torch.compiler.is_compiling() and not bool(going.any()):
                break
        return self.answer(weights, q, keys, values, lag, controls), weights

    def energy(self, q: Tensor, patterns: Tensor) -> Tensor:
        """E = -log(sum_j exp(scale q . k_j)) / scale + |q|^2 / 2 + log(N) / scale + max_j |k_j|^2 / 2, at least 0.

        q: (..., n, K), patterns: (..., N, K); returns (..., n).
        """
        scale = self.scale or 1 / math.sqrt(q.shape[-1])
        near = torch.logsumexp(scale * (q @ patterns.mT), -1)
        longest = patterns.square().sum(-1).amax(-1, keepdim=True)
        return (math.log(patterns.shape[-2]) - near) / scale + (q.square().sum(-1) + longest) / 2


def metastable_size(weights: Tensor, share: float = 0.9) -> Tensor:
    """How many patterns an answer is a mean of: the fewest whose weights (..., N) reach `share` of their sum, (...).

    1 is a single pattern, N the mean of all (arXiv 2008.02217, which counts so the heads of trained models). Raises
    InvalidValue for a share outside (0, 1].
    """
    expect(0 < share <= 1, f"metastable_size(share=) lies in (0, 1]; got {share}.")
    reached = weights.sort(-1, descending=True).values.cumsum(-1)
    return 1 + (reached < share * reached[..., -1:] * (1 - 1e-6)).sum(-1)
