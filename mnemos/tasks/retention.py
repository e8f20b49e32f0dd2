"""Retention: what was seen once, asked for after growing delays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.draws import different, spelled
from mnemos.tasks.registry import task


@task(
    "retention",
    source="the retention experiments of arXiv 2303.17557",
    differences=(
        "items are random, seen and asked for within one sequence; there sentences that a model is trained on",
    ),
)
@dataclass(frozen=True)
class RetentionOfItems(TokenTask):
    """New items all the time, each with its value and seen once; after each, what was the value of an earlier one?

        k_1 v_1 ask k_1  k_2 v_2 ask k_1  k_3 v_3 ask k_2 ...        asked at the last token of a key after ask

    The item asked for is the newest one or that of 1, 2, 4, 8 ... items before, each equally likely as far as there
    are so many. An item may be asked for again after a longer delay, but its value is never shown again.
    width: tokens of a key k, each from [0, symbols); all keys of a sequence differ. symbols: those; values come from
    them too, each drawn evenly. After them come the tokens ask and blank. longest: no item is asked for after more
    than so many others. A longer sequence has more items, and blanks where no more fits.
    facts: "between", how many items were seen after the one asked for; "delay", tokens from its value to the question.
    """

    length: int = 256
    width: int = 2
    symbols: int = 32
    longest: int = 16

    facts: ClassVar[tuple[str, ...]] = ("between", "delay")

    def __post_init__(self) -> None:
        self.at_least(width=1, symbols=2, longest=0)
        each = 2 * self.width + 2
        expect(
            self.length >= each * (self.longest + 1),
            f"RetentionOfItems(length=) must be at least (2 * width + 2) * (longest + 1) = "
            f"{each * (self.longest + 1)}, so that every delay occurs; got {self.length}.",
        )
        expect(
            self._items <= self.symbols**self.width <= 2**62,
            f"RetentionOfItems(symbols=, width=) make symbols ** width different keys, which must be at least "
            f"length // (2 * width + 2) = {self._items} and at most 2 ** 62; got {self.symbols} ** {self.width}.",
        )

    @property
    def _items(self) -> int:
        return self.length // (2 * self.width + 2)

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        width, items = self.width, self._items
        order = np.arange(items)
        delays = np.array([0, *(2**i for i in range(self.longest.bit_length()))])
        possible = np.searchsorted(delays, order, side="right")
        between = delays[random.integers(0, possible, (rows, items))]
        keys = spelled(different(random, rows, self.symbols**width, items), self.symbols, width)
        values = random.integers(0, self.symbols, (rows, items))

        blocks = np.empty((rows, items, 2 * width + 2), dtype=np.int64)
        blocks[..., :width], blocks[..., width], blocks[..., width + 1] = keys, values, self.symbols
        blocks[..., width + 2 :] = np.take_along_axis(keys, (order - between)[..., None], 1)
        shape, used = (rows, self.length), items * (2 * width + 2)
        inputs = np.full(shape, self.symbols + 1)
        inputs[:, :used] = blocks.reshape(rows, -1)
        targets, others, delay = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked = np.zeros(shape, dtype=bool)
        at = (2 * width + 2) * order + 2 * width + 1
        asked[:, at], targets[:, at] = True, np.take_along_axis(values, order - between, 1)
        others[:, at], delay[:, at] = between, (2 * width + 2) * between + width + 1
        facts = {"between": torch.from_numpy(others), "delay": torch.from_numpy(delay)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        width, said = self.width, torch.full_like(inputs, UNKNOWN)
        for row, tokens in enumerate(inputs.tolist()):
            values: dict[tuple[int, ...], int] = {}
            for block in range(0, self._items * (2 * width + 2), 2 * width + 2):
                values[tuple(tokens[block : block + width])] = tokens[block + width]
                end = block + 2 * width + 2
                said[row, end - 1] = values.get(tuple(tokens[end - width : end]), UNKNOWN)
        return self.answers(said)
