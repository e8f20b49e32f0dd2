"""Which of two passages of a text came first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import DataError, expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task
from mnemos.tasks.text import text_bytes

FIRST, SECOND, ASK = 256, 257, 258
TRIES = 1000


@task(
    "sequence_order",
    source="sequence order recall tasks, arXiv 2410.08133",
    differences=(
        "bytes and a few markers; there words and a prompt",
        "segments begin at any byte; there at sentences",
        "the text always stands before the question; there it may also be known from training only",
    ),
)
@dataclass(frozen=True)
class SequenceOrder(TokenTask):
    """Real text, then two segments of it: which came first?

        t t t t t ... t first a ... a second b ... b ask        asked at ask; the answer is first or second

    The text is any stretch of the source, a and b two segments of it that do not overlap, each of which stands in it
    just once; all such pairs are equally likely, in either order. Tokens are bytes, and after them the three markers
    first, second and ask.
    segment: bytes of a, and of b. text: where the text comes from: "stdlib" (Python's own library sources), a file of
    UTF-8 text or a folder of them; `draw` raises DataError where there is none, or too little. A longer sequence shows
    more text.
    facts: "delay", tokens from the beginning of the earlier segment in the text to the question; "distance", tokens
    between the beginnings of the two.
    """

    length: int = 256
    segment: int = 16
    text: str = "stdlib"

    facts: ClassVar[tuple[str, ...]] = ("delay", "distance")

    def __post_init__(self) -> None:
        self.at_least(segment=1)
        expect(
            self.length >= 4 * self.segment + 3,
            f"SequenceOrder(length=) must be at least 4 * segment + 3 = {4 * self.segment + 3}: two segments within "
            f"the text, two in the question, and three markers; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return 259

    @property
    def chance(self) -> float:
        return 0.5

    @property
    def _shown(self) -> int:
        """Bytes of text."""
        return self.length - 2 * self.segment - 3

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        source, segment, shown = text_bytes(self.text), self.segment, self._shown
        if len(source) < shown:
            raise DataError(f"{self.text} holds {len(source)} bytes of text; sequences of this length show {shown}.")
        text = np.empty((rows, shown), dtype=np.uint8)
        begins = np.empty((rows, 2), dtype=np.int64)
        left, tries = np.arange(rows), 0
        while len(left):
            if tries == TRIES:
                raise DataError(f"{self.text} repeats itself so much that segments of {segment} bytes do not differ.")
            at = random.integers(0, len(source) - shown + 1, len(left))
            text[left] = source[at[:, None] + np.arange(shown)]
            # two different places, and then apart by a segment
            places = shown - 2 * segment + 2
            first = random.integers(0, places, len(left))
            second = random.integers(0, places - 1, len(left))
            second += second >= first
            begins[left] = np.stack([np.minimum(first, second), np.maximum(first, second) + segment - 1], 1)
            left = np.array([row for row in left if not _once_each(text[row], begins[row], segment)], dtype=np.int64)
            tries += 1

        swapped = random.random(rows) < 0.5
        shape, within = (rows, self.length), np.arange(segment)
        asked_for = np.where(swapped[:, None], begins[:, ::-1], begins)[:, :, None] + within
        inputs = np.empty(shape, dtype=np.int64)
        inputs[:, :shown] = text
        for marker, begin, places in ((FIRST, shown, asked_for[:, 0]), (SECOND, shown + segment + 1, asked_for[:, 1])):
            inputs[:, begin] = marker
            inputs[:, begin + 1 : begin + 1 + segment] = np.take_along_axis(text, places, 1)
        inputs[:, -1] = ASK
        targets, delay, distance = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        asked = np.zeros(shape, dtype=bool)
        targets[:, -1], asked[:, -1] = np.where(swapped, SECOND, FIRST), True
        delay[:, -1], distance[:, -1] = self.length - 1 - begins[:, 0], begins[:, 1] - begins[:, 0]
        facts = {"delay": torch.from_numpy(delay), "distance": torch.from_numpy(distance)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        segment, shown = self.segment, self._shown
        said = torch.full_like(inputs, UNKNOWN)
        a, b = (self._stands(inputs, begin) for begin in (shown + 1, shown + segment + 2))
        earlier = a.int().argmax(1) < b.int().argmax(1)
        said[:, -1] = torch.where(a.any(1) & b.any(1), torch.where(earlier, FIRST, SECOND), UNKNOWN)
        return self.answers(said)

    def _stands(self, inputs: Tensor, begin: int) -> Tensor:
        """The places in the text where the segment at `begin` stands."""
        places = self._shown - self.segment + 1
        same = torch.ones_like(inputs[:, :places], dtype=torch.bool)
        for i in range(self.segment):
            same &= inputs[:, i : i + places] == inputs[:, begin + i : begin + i + 1]
        return same


def _once_each(text: np.ndarray, begins: np.ndarray, segment: int) -> bool:
    """Whether the segments at these places stand nowhere else."""
    whole = text.tobytes()
    segments = (whole[begin : begin + segment] for begin in begins)
    return all(whole.find(part) == whole.rfind(part) for part in segments)
