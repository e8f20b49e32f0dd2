"""The parity of the last N bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "n_parity",
    source="arXiv 2309.12927, and its code",
    differences=(
        "one output answers for every N, which the question names; there each N has a readout of its own",
        "bits are fair; in that code their probability is drawn for every sequence, which favours 0 where N is even",
        "the number of bits is fixed by `length`; there it is drawn, from N + 2 to 4 N + 1",
    ),
)
@dataclass(frozen=True)
class NParity(TokenTask):
    """Fair bits, then numbers N: is the number of ones among the last N bits odd?

        b_1 b_2 ... b_m N_1 N_2 ...        asked at every N; the answer is the parity of b_(m-N+1) ... b_m

    Bits and answers are the tokens 0 and 1, N is the token N. Every N from `least` to `most` is asked for once, in any
    order. The curriculum of the paper goes on to the next N when 98 % are right: with one head
    `task.replace(least=n, most=n)` for n = 2, 3, ..., with many heads `task.replace(most=n)`.
    least: the smallest N, at least 2.
    most: the largest N.
    names: the largest N that has a token. It must not change while one model is taught with growing N.
    facts: "n", the N of the question.
    """

    length: int = 64
    least: int = 2
    most: int = 6
    names: int = 32

    facts: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        self.at_least(least=2)
        expect(
            self.least <= self.most <= self.names,
            f"NParity(most=) must be from least={self.least} to names={self.names}, so that there is an N to ask for "
            f"and every N has a token; got {self.most}.",
        )
        expect(
            self.bits >= self.most,
            f"NParity(length=) must be at least {2 * self.most - self.least + 1}: most={self.most} bits and a question "
            f"for every N from {self.least} to {self.most}; got {self.length}.",
        )

    @property
    def bits(self) -> int:
        """The number of bits, m."""
        return self.length - (self.most - self.least + 1)

    @property
    def vocabulary(self) -> int:
        return self.names + 1

    @property
    def chance(self) -> float:
        return 0.5

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        every = np.arange(self.least, self.most + 1)
        bits = random.integers(0, 2, (rows, self.bits))
        questions = random.permuted(np.broadcast_to(every, (rows, len(every))), axis=1)
        inputs = torch.from_numpy(np.concatenate([bits, questions], 1))
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[:, self.bits :] = True
        return Batch(inputs, self._parities(inputs).clamp(min=0), asked, {"n": inputs.clone()})

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(self._parities(inputs))

    def _parities(self, inputs: Tensor) -> Tensor:
        """The answers (B, T), UNKNOWN at the bits."""
        last = inputs[:, : self.bits].flip(1).cumsum(1) % 2  # of the last 1, 2, ... bits
        found = torch.full_like(inputs, UNKNOWN)
        found[:, self.bits :] = last.gather(1, inputs[:, self.bits :] - 1)
        return found
