"""Cued recall after a single exposure."""

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
    "cued_recall",
    source="the recall experiments of arXiv 2303.17557",
    differences=(
        "items are random, seen and asked for within one sequence; there sentences that a model is trained on",
    ),
)
@dataclass(frozen=True)
class CuedRecall(TokenTask):
    """A list of items, each seen once; then the beginning of each, in any order: how does it go on?

        a b c d  e f g h ... . . . . . go  e f g  a b c ...        with cue=2 asked at f, g, b and c:
                                                                   the answers are g, h, c and d

    items: how many. width: tokens of an item, each from [0, symbols). symbols: those; after them come the tokens blank
    and go. cue: tokens that are given; every further token of the item is asked for at the one before it. No two items
    begin with the same cue, all else is drawn evenly. A longer sequence has more blanks.
    facts: "item", its place in the list, from 0; "delay", tokens from the answer in the list to the question.
    """

    items: int = 8
    width: int = 4
    symbols: int = 32
    cue: int = 2

    facts: ClassVar[tuple[str, ...]] = ("item", "delay")

    def __post_init__(self) -> None:
        self.at_least(items=1, symbols=2, cue=1, width=2)
        expect(
            self.cue < self.width,
            f"CuedRecall(cue=) must be less than width={self.width}, or nothing is left to recall; got {self.cue}.",
        )
        expect(
            self.items <= self.symbols**self.cue <= 2**62,
            f"CuedRecall(symbols=, cue=) make symbols ** cue different cues, which must be at least items="
            f"{self.items} and at most 2 ** 62; got {self.symbols} ** {self.cue}.",
        )
        least = self.items * (2 * self.width - 1) + 1
        expect(
            self.length >= least,
            f"CuedRecall(length=) must be at least items * (2 * width - 1) + 1 = {least}; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def _go(self) -> int:
        return self.length - self.items * (self.width - 1) - 1

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        go, asks = self._go, (rows, self.items, self.width - 1)
        cues = spelled(different(random, rows, self.symbols**self.cue, self.items), self.symbols, self.cue)
        rests = random.integers(0, self.symbols, (rows, self.items, self.width - self.cue))
        items = np.concatenate([cues, rests], 2)
        order = different(random, rows, self.items, self.items)
        again = np.take_along_axis(items, order[:, :, None], 1)

        shape, shown = (rows, self.length), self.items * self.width
        inputs = np.full(shape, self.symbols)
        inputs[:, :shown], inputs[:, go] = items.reshape(rows, -1), self.symbols + 1
        inputs[:, go + 1 :] = again[..., :-1].reshape(rows, -1)
        targets, item, delay = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked = np.zeros(shape, dtype=bool)
        targets[:, go + 1 :] = again[..., 1:].reshape(rows, -1)
        within = np.arange(self.width - 1)
        asked[:, go + 1 :] = np.broadcast_to(within >= self.cue - 1, asks).reshape(rows, -1)
        item[:, go + 1 :] = np.broadcast_to(order[:, :, None], asks).reshape(rows, -1)
        seen = order[:, :, None] * self.width + within + 1
        delay[:, go + 1 :] = np.arange(go + 1, self.length) - seen.reshape(rows, -1)
        facts = {"item": torch.from_numpy(item), "delay": torch.from_numpy(delay)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        rows, cue = len(inputs), self.cue
        items = inputs[:, : self.items * self.width].reshape(rows, 1, self.items, self.width)
        given = inputs[:, self._go + 1 :].reshape(rows, self.items, 1, self.width - 1)[..., :cue]
        same = (items[..., :cue] == given).all(-1)
        found = torch.take_along_dim(items[:, 0], same.int().argmax(-1)[..., None], 1)[..., 1:].clone()
        found[~same.any(-1)] = UNKNOWN
        found[..., : cue - 1] = UNKNOWN
        said = torch.full_like(inputs, UNKNOWN)
        said[:, self._go + 1 :] = found.reshape(rows, -1)
        return self.answers(said)
