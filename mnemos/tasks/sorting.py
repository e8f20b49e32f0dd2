"""Priority sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.draws import different
from mnemos.tasks.registry import task


@task(
    "sorting",
    source="priority sort, arXiv 1410.5401",
    differences=(
        "items and priorities are tokens; there bit vectors and numbers",
        "all items are asked for; there the 16 highest of 20",
    ),
)
@dataclass(frozen=True)
class Sorting(TokenTask):
    """Symbols with priorities: say the symbols in the order of their priorities, the highest first.

        p_1 x_1 p_2 x_2 ... p_n x_n . . . . go . . .        asked at the last n blanks; the answers are the x, sorted

    Since the answers are not what is sorted by, the place of an answer tells nothing about it.
    items: n. symbols: every x is drawn from [0, symbols), and may repeat. priorities: every p is drawn from so many
    tokens after the symbols, all different, a later token being the higher one. After them come the blank and go. A
    longer sequence has more blanks.
    facts: "delay", tokens from an item to where it is asked for; "rank", its place in the answer, from 0.
    """

    length: int = 64
    items: int = 8
    symbols: int = 16
    priorities: int = 32

    facts: ClassVar[tuple[str, ...]] = ("delay", "rank")

    def __post_init__(self) -> None:
        self.at_least(items=1, symbols=2)
        expect(
            self.priorities >= self.items,
            f"Sorting(priorities=) must be at least items={self.items} so that each has one of its own; got "
            f"{self.priorities}.",
        )
        expect(
            self.length >= 3 * self.items + 1,
            f"Sorting(length=) must be at least 3 * items + 1 = {3 * self.items + 1}: each item takes two tokens and "
            f"one more where it is said, and one token says when; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols + self.priorities + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        shape, shown, go = (rows, self.length), 2 * self.items, self.length - self.items - 1
        items = random.integers(0, self.symbols, (rows, self.items))
        priorities = different(random, rows, self.priorities, self.items)
        order = np.argsort(-priorities, axis=1)
        inputs = np.full(shape, self.symbols + self.priorities)
        inputs[:, 0:shown:2], inputs[:, 1:shown:2] = self.symbols + priorities, items
        inputs[:, go] += 1
        targets, delay, rank = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked, ranks = np.zeros(shape, dtype=bool), np.arange(self.items)
        end = slice(go + 1, None)
        targets[:, end], asked[:, end], rank[:, end] = np.take_along_axis(items, order, 1), True, ranks
        delay[:, end] = go + 1 + ranks - (2 * order + 1)
        facts = {"delay": torch.from_numpy(delay), "rank": torch.from_numpy(rank)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        shown = 2 * self.items
        order = inputs[:, 0:shown:2].argsort(1, descending=True)
        said = torch.full_like(inputs, UNKNOWN)
        said[:, self.length - self.items :] = inputs[:, 1:shown:2].gather(1, order)
        return self.answers(said)
