"""Copying after a delay."""

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
    "copy",
    source="arXiv 1511.06464, after Hochreiter and Schmidhuber 1997",
    differences=("only the copy is scored; there the blanks before it too",),
)
@dataclass(frozen=True)
class Copying(TokenTask):
    """Symbols, then nothing for a long time: say them again in their order.

        x_1 x_2 ... x_n . . . . . . . go . . .        asked at the last n blanks; the answers are x_1 ... x_n

    Whoever keeps only the first token has one answer of n.
    items: n. symbols: every x is drawn from [0, symbols), and may repeat; the blank is the token `symbols`, go the one
    after it. A longer sequence has more blanks.
    facts: "delay", tokens from an item to where it is asked for, the same for all; "item", its place among them, from
    0.
    """

    items: int = 10
    symbols: int = 8

    facts: ClassVar[tuple[str, ...]] = ("delay", "item")

    def __post_init__(self) -> None:
        self.at_least(items=1, symbols=2)
        expect(
            self.length >= 2 * self.items + 1,
            f"{type(self).__name__}(length=) must be at least 2 * items + 1 = {2 * self.items + 1}: each item is shown "
            f"and said, and one token says when; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols + 2

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def _shown(self) -> int:
        """Tokens before go."""
        return self.length - self.items - 1

    def _places(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Where the items stand."""
        return np.broadcast_to(np.arange(self.items), (rows, self.items))

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        shape, order = (rows, self.length), np.arange(self.items)
        items, at = random.integers(0, self.symbols, (rows, self.items)), self._places(rows, random)
        inputs = np.full(shape, self.symbols)
        np.put_along_axis(inputs, at, items, 1)
        inputs[:, self._shown] = self.symbols + 1
        targets, delay, item = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked = np.zeros(shape, dtype=bool)
        end = slice(self._shown + 1, None)
        targets[:, end], asked[:, end], item[:, end] = items, True, order
        delay[:, end] = self._shown + 1 + order - at
        facts = {"delay": torch.from_numpy(delay), "item": torch.from_numpy(item)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        shown = inputs[:, : self._shown]
        at = torch.argsort((shown >= self.symbols).int(), dim=1, stable=True)[:, : self.items]
        said = torch.full_like(inputs, UNKNOWN)
        said[:, self._shown + 1 :] = shown.gather(1, at)
        return self.answers(said)


@task(
    "selective_copy",
    source="arXiv 2312.00752, in the form of the code of arXiv 2403.17844 (MAD)",
    differences=("the items stand at any places, all equally likely; there the last stands right before go",),
)
@dataclass(frozen=True)
class SelectiveCopying(Copying):
    """Symbols among blanks, at places that differ from row to row: say them again in their order.

        . x_1 . . . x_2 x_3 . . . . x_n . . go . . .        asked at the last n blanks; the answers are x_1 ... x_n

    Whoever keeps only the first token has at times the first answer.
    items: n. symbols: every x is drawn from [0, symbols), and may repeat; the blank is the token `symbols`, go the one
    after it. All choices of n places before go are equally likely. A longer sequence has more blanks.
    facts: "delay", tokens from an item to where it is asked for; "item", its place among them, from 0.
    """

    items: int = 16
    symbols: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()

    def _places(self, rows: int, random: np.random.Generator) -> np.ndarray:
        return np.sort(np.argsort(random.random((rows, self._shown)), axis=1)[:, : self.items], axis=1)
