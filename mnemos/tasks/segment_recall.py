"""Associative recall across segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task

BLANK, GIVES, END = 0, 1, 2
FIRST_SYMBOL = 3


@task(
    "segment_recall",
    source="arXiv 2407.04841 (ARMT: associative retrieval, remember and rewrite), and the generator of its code",
    differences=(
        "a segment may hold several pairs or none; there each pair is a segment",
        "several keys may be asked for, once each; there one is, twice, with masked symbols after the first time",
        "the number of rewritings is given; there keys are drawn with replacement",
    ),
)
@dataclass(frozen=True)
class SegmentRecall(TokenTask):
    """Pairs of keys and values stand in all segments but the last, which asks for some: what was this key's last value?

        k : v ; k : v ; . . | k : v ; . . . . . . | ... | k : v ; k : v ; . .

    asked for each symbol of the values in the last segment, at the token before it. The pairs are spread over the
    segments as evenly as can be and stand at their beginnings; blanks fill the rest. The symbols of a value are drawn
    evenly. Tokens: 0 the blank, 1 the colon, 2 the semicolon, from 3 the symbols.
    segment: tokens of one; length is a multiple of it. pairs: in all segments together. rewrites: how many of them give
    a new value to a key told elsewhere too, drawn evenly; the value told last counts. With 0 it is the task remember.
    questions: keys asked for, drawn evenly, each once. symbols: how many there are. key_size: symbols of a key.
    value_size: symbols of a value. A longer sequence has more segments, and the same pairs spread over them.
    facts: "delay", tokens from a symbol of the value to its question; "segments", how many ago that was; "rewrites",
    values that the key had before.
    """

    length: int = 128
    segment: int = 32
    pairs: int = 6
    rewrites: int = 0
    questions: int = 6
    symbols: int = 16
    key_size: int = 1
    value_size: int = 1

    facts: ClassVar[tuple[str, ...]] = ("delay", "segments", "rewrites")

    def __post_init__(self) -> None:
        self.at_least(segment=1, pairs=1, rewrites=0, questions=1, symbols=2, key_size=1, value_size=1)
        expect(
            self.length % self.segment == 0 and self.length >= 2 * self.segment,
            f"SegmentRecall(length=) must be two or more times segment={self.segment}; got {self.length}.",
        )
        keys, most = self.pairs - self.rewrites, self.symbols**self.key_size
        expect(
            1 <= keys <= most,
            f"SegmentRecall(rewrites=) must leave from 1 to symbols**key_size = {most} of pairs={self.pairs} with "
            f"a key of their own; got {self.rewrites}.",
        )
        expect(
            self.questions <= keys,
            f"SegmentRecall(questions=) must be at most pairs - rewrites = {keys}, the number of keys; got "
            f"{self.questions}.",
        )
        fullest = max(-(-self.pairs // self._segments), self.questions)
        expect(
            self.segment >= fullest * self._width,
            f"SegmentRecall(segment=) must be at least {fullest * self._width}: one holds {fullest} pairs or questions "
            f"of key_size + value_size + 2 = {self._width} tokens; got {self.segment}. Give fewer.",
        )

    @property
    def vocabulary(self) -> int:
        return FIRST_SYMBOL + self.symbols

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def _segments(self) -> int:
        """Segments with pairs."""
        return self.length // self.segment - 1

    @property
    def _width(self) -> int:
        return self.key_size + self.value_size + 2

    def _layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each pair and each question begins, and where the symbols of its value stand after that."""
        segment = np.arange(self.pairs) * self._segments // self.pairs
        within = np.arange(self.pairs) - np.searchsorted(segment, segment)
        value = np.arange(self.key_size + 1, self._width - 1)
        end = self.length - self.segment
        return segment * self.segment + within * self._width, end + np.arange(self.questions) * self._width, value

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        keys, row = self.pairs - self.rewrites, np.arange(rows)[:, None]
        codes = np.stack([random.choice(self.symbols**self.key_size, keys, replace=False) for _ in range(rows)])
        again = random.integers(0, keys, (rows, self.rewrites))
        key = random.permuted(np.concatenate([np.tile(np.arange(keys), (rows, 1)), again], axis=1), axis=1)
        told = np.empty((rows, self.pairs, self._width), dtype=np.int64)
        digits = codes[row, key][..., None] // self.symbols ** np.arange(self.key_size) % self.symbols
        told[..., : self.key_size] = digits + FIRST_SYMBOL
        told[..., self.key_size], told[..., -1] = GIVES, END
        shape = (rows, self.pairs, self.value_size)
        told[..., self.key_size + 1 : -1] = random.integers(0, self.symbols, shape) + FIRST_SYMBOL

        last, times = np.zeros((rows, keys), dtype=np.int64), np.zeros((rows, keys), dtype=np.int64)
        np.maximum.at(last, (row, key), np.arange(self.pairs))
        np.add.at(times, (row, key), 1)
        pair = last[:, : self.questions]  # any keys are as good: their codes and their order are drawn already
        starts, ends, value = self._layout()
        inputs = np.full((rows, self.length), BLANK)
        inputs[:, starts[:, None] + np.arange(self._width)] = told
        inputs[:, ends[:, None] + np.arange(self._width)] = told[row, pair]

        at = ends[:, None] + value - 1
        targets, delay, segments, rewrites = (np.zeros_like(inputs) for _ in range(4))
        here = np.zeros(inputs.shape, dtype=bool)
        targets[:, at], here[:, at] = told[row, pair][..., value], True
        delay[:, at] = at - (starts[pair][..., None] + value)
        segments[:, at] = (self._segments - starts[pair] // self.segment)[..., None]
        rewrites[:, at] = (times[:, : self.questions] - 1)[..., None]
        facts = dict(zip(type(self).facts, map(torch.from_numpy, (delay, segments, rewrites)), strict=True))
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(here), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        starts, ends, value = map(torch.from_numpy, self._layout())
        symbols = torch.arange(self.key_size)
        keys, asked = inputs[:, starts[:, None] + symbols], inputs[:, ends[:, None] + symbols]
        same = (asked[:, :, None] == keys[:, None]).all(-1)
        latest = (same * torch.arange(1, self.pairs + 1)).amax(-1) - 1
        values = inputs.gather(1, (starts[latest][..., None] + value).flatten(1)).view(*latest.shape, -1)
        answers = torch.full_like(inputs, UNKNOWN)
        answers[:, ends[:, None] + value - 1] = torch.where(latest[..., None] >= 0, values, UNKNOWN)
        return self.answers(answers)
