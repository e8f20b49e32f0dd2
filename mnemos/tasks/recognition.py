"""Recognition after a single exposure: old or new?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.draws import different, spelled
from mnemos.tasks.registry import task


@task(
    "recognition",
    source="the recognition experiments of arXiv 2303.17557",
    differences=(
        "items are random, seen and asked for within one sequence; there sentences that a model is trained on",
        "one item at a time, old or new; there which of two is the old one",
    ),
)
@dataclass(frozen=True)
class Recognition(TokenTask):
    """A list of items, each seen once; then one item after another: was it in the list?

        i_1 i_2 ... i_n . . . . . go j_1 j_2 ... j_m        asked at the last token of each j; old or new

    items: n, all different. width: tokens of an item, each from [0, symbols). symbols: those; after them come the
    tokens blank, go, new and old. probes: m. Each is old half the time, independently of the others; no item is
    asked for twice. lures: what new ones are: "unrelated", any item that is not in the list, or "similar", an item of
    the list with one token changed so that it is none of the list: then knowing parts of items is not enough. A longer
    sequence has more blanks.
    facts: "old", 1 or 0: the accuracy where it is 1 is the hit rate, where it is 0 one less the rate of false alarms;
    "item", the place in the list from 0, and "delay", tokens from the item's last token to its probe's: both -1 where
    the probe is new.
    """

    items: int = 16
    width: int = 2
    symbols: int = 32
    probes: int = 8
    lures: Literal["unrelated", "similar"] = "unrelated"

    facts: ClassVar[tuple[str, ...]] = ("old", "item", "delay")

    def __post_init__(self) -> None:
        self.at_least(items=1, width=1, symbols=2, probes=1)
        expect(
            self.probes <= self.items,
            f"Recognition(probes=) must be at most items={self.items}, since none is asked for twice; got "
            f"{self.probes}.",
        )
        expect(
            self.items + self.probes <= self.symbols**self.width <= 2**62,
            f"Recognition(symbols=, width=) make symbols ** width different items, which must be at least items + "
            f"probes = {self.items + self.probes} and at most 2 ** 62; got {self.symbols} ** {self.width}.",
        )
        if self.lures == "similar":
            near = self.width * (self.symbols - 1)
            expect(
                near >= self.items,
                f'Recognition(lures="similar") needs width * (symbols - 1) to be at least items={self.items}, so that '
                f"not all that is like an item is in the list; got {near}.",
            )
        else:
            expect(
                self.lures == "unrelated",
                f'Recognition(lures=) is "unrelated" or "similar"; got {self.lures!r}.',
            )
        least = (self.items + self.probes) * self.width + 1
        expect(
            self.length >= least,
            f"Recognition(length=) must be at least (items + probes) * width + 1 = {least}; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols + 4

    @property
    def chance(self) -> float:
        return 0.5

    @property
    def _go(self) -> int:
        return self.length - self.probes * self.width - 1

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        shape, go, width = (rows, self.length), self._go, self.width
        drawn = different(random, rows, self.symbols**width, self.items + self.probes)
        items, unrelated = drawn[:, : self.items], drawn[:, self.items :]
        item = different(random, rows, self.items, self.probes)
        known = np.take_along_axis(items, item, 1)
        new = unrelated if self.lures == "unrelated" else self._similar(random, items, known)
        old = random.random((rows, self.probes)) < 0.5
        probes = np.where(old, known, new)

        inputs = np.full(shape, self.symbols)
        inputs[:, : self.items * width] = spelled(items, self.symbols, width).reshape(rows, -1)
        inputs[:, go] = self.symbols + 1
        inputs[:, go + 1 :] = spelled(probes, self.symbols, width).reshape(rows, -1)
        at = go + width * (np.arange(self.probes) + 1)
        targets, of_old, of_item, delay = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        asked = np.zeros(shape, dtype=bool)
        asked[:, at], targets[:, at], of_old[:, at] = True, self.symbols + 2 + old, old
        of_item[:, at] = np.where(old, item, -1)
        delay[:, at] = np.where(old, at - (width * (item + 1) - 1), -1)
        facts = {name: torch.from_numpy(f) for name, f in (("old", of_old), ("item", of_item), ("delay", delay))}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def _similar(self, random: np.random.Generator, items: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Each known item with one token changed, so that it is none of its row's items."""
        lures = known.copy()
        while (listed := (lures[:, :, None] == items[:, None]).any(-1)).any():
            unit = self.symbols ** random.integers(0, self.width, int(listed.sum()))
            symbol = known[listed] // unit % self.symbols
            changed = (symbol + random.integers(1, self.symbols, len(unit))) % self.symbols
            lures[listed] = known[listed] + (changed - symbol) * unit
        return lures

    def solve(self, inputs: Tensor) -> Tensor:
        rows, width = len(inputs), self.width
        items = inputs[:, : self.items * width].reshape(rows, 1, self.items, width)
        probes = inputs[:, self._go + 1 :].reshape(rows, self.probes, 1, width)
        said = torch.full_like(inputs, UNKNOWN)
        old = (items == probes).all(-1).any(-1)
        said[:, self._go + width :: width] = self.symbols + 2 + old.long()
        return self.answers(said)
