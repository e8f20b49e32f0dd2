"""A key hidden in long text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, TokenTask
from mnemos.tasks.haystack import END, hide, recite, room, text_without
from mnemos.tasks.registry import task

OPENING = "The pass key is "


@task(
    "passkey",
    source="arXiv 2305.16300 (landmark attention)",
    differences=(
        "the text is real text, where there the same few sentences come again and again",
        "the key is said once and without an instruction; all its digits are drawn evenly, the first may be 0",
        "tokens are bytes, and the digits are scored one by one, the right ones before them given",
    ),
)
@dataclass(frozen=True)
class Passkey(TokenTask):
    """A key of some digits is said somewhere in long text: what was it?

        text The pass key is 71402. text The pass key is 7140        asked for each digit at the end, at the byte before

    Bytes are the tokens. The sentence stands at a place drawn evenly, even within a word; the digits are drawn evenly.
    digits: of the key, at least 1. text: where it comes from: a file, a folder, or `stdlib`, Python's own library. A
    longer sequence has more text. Raises InvalidValue, once it draws, for a text that says "The pass key is " itself.
    facts: "depth", the place of the sentence in per cent of the text; "delay", tokens from a digit to its question.
    """

    length: int = 256
    digits: int = 5
    text: str = "stdlib"

    facts: ClassVar[tuple[str, ...]] = ("depth", "delay")

    def __post_init__(self) -> None:
        self.at_least(digits=1)
        least = len(OPENING) + self.digits + len(END) + room(len(OPENING), self.digits, 1)
        expect(
            self.length >= least,
            f"Passkey(length=) must be at least {least}: a key of digits={self.digits} is said and asked for in so "
            f"many bytes; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return 256

    @property
    def chance(self) -> float:
        return 0.1

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        sentences = np.empty((rows, 1, len(OPENING) + self.digits + len(END)), dtype=np.int64)
        sentences[:] = list(OPENING.encode() + b"0" * self.digits + END)
        sentences[..., len(OPENING) : -len(END)] += random.integers(0, 10, (rows, 1, self.digits))
        only = np.zeros((rows, 1), dtype=np.int64)
        return hide(sentences, only, self.digits, text_without(self.text, OPENING), self.length, random)

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(recite(inputs, len(OPENING), self.digits, 1))
