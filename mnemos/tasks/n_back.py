"""The n-back task of working memory."""

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
    "n_back",
    source="arXiv 2305.03731 (verbal n-back)",
    differences=(
        "each place matches by a chance of its own; there 8 of 24 letters do",
        "a share of lures can be chosen, as is usual with people; there they come by chance",
    ),
)
@dataclass(frozen=True)
class NBack(TokenTask):
    """A stream of symbols: is this one the same as the one n places ago?

        x_1 x_2 x_3 ...        asked at every token but the first n; the answer is yes where x_t = x_(t-n), else no

    n: how far back, the delay of every question. symbols: x is in [0, symbols); no and yes are the two tokens after
    them. matches: the probability that x_t is x_(t-n); otherwise it is drawn from the other symbols. With two symbols
    this is delayed match to sample with a delay of n at every place. lures: the probability that a token that does not
    match repeats the one n - 1 or n + 1 places ago (half each; where that one differs from the one n ago), so that
    having seen it of late is no sign of a match.
    facts: "match" and "lure", 1 or 0: the accuracy where "match" is 1 is the hit rate, where it is 0 one less the rate
    of false alarms.
    """

    n: int = 2
    symbols: int = 8
    matches: float = 0.5
    lures: float = 0.25

    facts: ClassVar[tuple[str, ...]] = ("match", "lure")

    def __post_init__(self) -> None:
        self.at_least(n=1, symbols=2)
        expect(self.length > self.n, f"NBack(length=) must be more than n={self.n}; got {self.length}.")
        for name in ("matches", "lures"):
            share = getattr(self, name)
            expect(0 <= share <= 1, f"NBack({name}=) is a probability in [0, 1]; got {share!r}.")

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return max(self.matches, 1 - self.matches)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        length, n = self.length, self.n
        tokens = random.integers(0, self.symbols, (length, rows))
        match = random.random((length, rows)) < self.matches
        step = np.where(match, 0, random.integers(1, self.symbols, (length, rows)))
        lured = ~match & (random.random((length, rows)) < self.lures)
        nearer = random.random((length, rows)) < 0.5
        nearer[: n + 1], nearer[n + 1 :] = True, nearer[n + 1 :] & (n > 1)
        lured[: n + (n == 1)] = False
        like = np.arange(length)[:, None] - np.where(nearer, n - 1, n + 1)
        lure, row = np.zeros((length, rows), dtype=bool), np.arange(rows)
        for t in range(n, length):
            target, repeated = tokens[t - n], tokens[like[t], row]
            lure[t] = lured[t] & (repeated != target)
            tokens[t] = np.where(lure[t], repeated, (target + step[t]) % self.symbols)
        asked = np.zeros((rows, length), dtype=bool)
        asked[:, n:] = True
        facts = {"match": _rows_first(match), "lure": _rows_first(lure)}
        return Batch(_rows_first(tokens), _rows_first(self.symbols + match), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        said = torch.full_like(inputs, UNKNOWN)
        said[:, self.n :] = self.symbols + (inputs[:, self.n :] == inputs[:, : -self.n]).long()
        return self.answers(said)


def _rows_first(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.T, dtype=np.int64))
