"""Multi-query associative recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.draws import different
from mnemos.tasks.registry import task


@task(
    "mqar",
    source="arXiv 2312.04927, and the generator of its code (Zoology)",
    differences=(
        "all random numbers come from one seed; there the fillers do not",
        "padding to a length that is not a multiple of two is refused",
    ),
)
@dataclass(frozen=True)
class MultiQueryRecall(TokenTask):
    """Key-value pairs first, then every key once more, after gaps of all sizes: what was its value?

        k_1 v_1 ... k_n v_n  . . k_3 . . . . k_1 . ...        asked at every repeated key; the answer is its value

    pairs: n, all with different keys from [1, vocabulary / 2) and different values from [vocabulary / 2, vocabulary).
    tokens: the vocabulary. nearness: a. Gap g of the s = (length - 2 n) / 2 places for a repeated key is drawn with a
    probability proportional to a g^(a - 1), without replacement: small a asks soon, 1 evenly. filler: what stands
    between: "any" token, even another row's or this row's keys, or "blank", the token 0.
    facts: "delay", tokens from a pair's value to its question; "pair", the pair's place, from 0.
    """

    pairs: int = 8
    tokens: int = 256
    nearness: float = 0.01
    filler: Literal["any", "blank"] = "any"

    facts: ClassVar[tuple[str, ...]] = ("delay", "pair")

    def __post_init__(self) -> None:
        self.at_least(pairs=1, tokens=4, length=4)
        expect(
            self.tokens % 2 == 0 and self.pairs < self.tokens // 2,
            f"MultiQueryRecall(tokens=) must be even, and more than twice pairs={self.pairs} so that each pair has a "
            f"key of its own; got {self.tokens}.",
        )
        expect(
            self.length % 2 == 0 and self.length >= 4 * self.pairs,
            f"MultiQueryRecall(length=) must be even and at least 4 * pairs = {4 * self.pairs}: each pair takes two "
            f"tokens, and two more where it is asked for; got {self.length}.",
        )
        expect(self.nearness > 0, f"MultiQueryRecall(nearness=) must be positive; got {self.nearness}.")
        expect(self.filler in ("any", "blank"), f'MultiQueryRecall(filler=) is "any" or "blank"; got {self.filler!r}.')

    @property
    def vocabulary(self) -> int:
        return self.tokens

    @property
    def chance(self) -> float:
        return 2 / self.tokens

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        half, context = self.tokens // 2, 2 * self.pairs
        places = (self.length - context) // 2
        keys = different(random, rows, half - 1, self.pairs) + 1
        values = different(random, rows, half, self.pairs) + half
        weights = np.arange(1, places + 1) ** (self.nearness - 1.0)
        # the largest of log-weights with Gumbel noise are a draw without replacement
        noisy = np.log(weights) + random.gumbel(size=(rows, places))
        at = context + 2 * np.argsort(-noisy, axis=1)[:, : self.pairs]

        shape = (rows, self.length)
        inputs = random.integers(0, self.tokens, shape) if self.filler == "any" else np.zeros(shape, dtype=np.int64)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        targets, gap, pair = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked, row = np.zeros(shape, dtype=bool), np.arange(rows)[:, None]
        inputs[row, at], targets[row, at], asked[row, at] = keys, values, True
        order = np.arange(self.pairs)
        pair[row, at], gap[row, at] = order, at - (2 * order + 1)
        facts = {"delay": torch.from_numpy(gap), "pair": torch.from_numpy(pair)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        context = 2 * self.pairs
        keys, values = inputs[:, 0:context:2], inputs[:, 1:context:2]
        same = inputs[:, :, None] == keys[:, None]
        found = torch.where(same.any(-1), values.gather(1, same.int().argmax(-1)), UNKNOWN)
        found[:, :context] = UNKNOWN
        return self.answers(found)
