"""Several numbers hidden in long text, each behind a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, TokenTask
from mnemos.tasks.haystack import END, hide, recite, room, text_without
from mnemos.tasks.registry import task

OPENING = "The magic number of "
IS = " is "


@task(
    "needles",
    source="arXiv 2404.06654 (RULER: needles in a haystack with several keys and several questions)",
    differences=(
        "keys are random letters and the tokens bytes; no instruction tells what to look for",
        "the sentences stand anywhere in running text, not between its sentences",
        "the questions are answered one after another in the words of the text, and scored digit by digit",
    ),
)
@dataclass(frozen=True)
class Needles(TokenTask):
    """Some sentences in long text give numbers to keys: what is the number of this key, and of that?

        text The magic number of qx is 482. text The magic number of ab is 930. text The magic number of ab is 93

    asked for each digit of the sentences at the end, at the byte before it; those before stand there already. Bytes are
    the tokens. Sentences stand at places drawn evenly, even within a word; digits and keys are drawn evenly.
    needles: sentences, all with different keys. questions: how many of them are asked for, each once, in random order.
    letters: of a key, from a to z. digits: of a number. text: where it comes from: a file, a folder, or `stdlib`,
    Python's own library. A longer sequence has more text. Raises InvalidValue, once it draws, for a text that says "The
    magic number of " itself.
    facts: "depth", the place of the sentence in per cent of the text; "delay", tokens from a digit to its question.
    """

    length: int = 256
    needles: int = 4
    questions: int = 1
    letters: int = 2
    digits: int = 3
    text: str = "stdlib"

    facts: ClassVar[tuple[str, ...]] = ("depth", "delay")

    def __post_init__(self) -> None:
        self.at_least(needles=1, questions=1, letters=1, digits=1)
        expect(
            self.letters <= 12,
            f"Needles(letters=) must be at most 12, more than enough to tell keys apart; got {self.letters}.",
        )
        expect(
            self.needles <= 26**self.letters,
            f"Needles(needles=) must be at most 26**letters = {26**self.letters}, so that each has its own key; got "
            f"{self.needles}. Raise letters=.",
        )
        expect(
            self.questions <= self.needles,
            f"Needles(questions=) must be at most needles={self.needles}, each of which is asked for once; got "
            f"{self.questions}.",
        )
        least = self.needles * (self._opening + self.digits + len(END)) + self._room
        expect(
            self.length >= least,
            f"Needles(length=) must be at least {least}: needles={self.needles} and then "
            f"questions={self.questions} of them stand in so many bytes; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return 256

    @property
    def chance(self) -> float:
        return 0.1

    @property
    def _opening(self) -> int:
        """Bytes of a sentence before its number."""
        return len(OPENING) + self.letters + len(IS)

    @property
    def _room(self) -> int:
        return room(self._opening, self.digits, self.questions)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        number = self.needles
        sentences = np.empty((rows, number, self._opening + self.digits + len(END)), dtype=np.int64)
        sentences[:] = list(f"{OPENING}{'a' * self.letters}{IS}{'0' * self.digits}".encode() + END)
        keys = np.stack([random.choice(26**self.letters, number, replace=False) for _ in range(rows)])
        letter = 26 ** np.arange(self.letters)
        sentences[..., len(OPENING) : len(OPENING) + self.letters] += keys[..., None] // letter % 26
        sentences[..., self._opening : -len(END)] += random.integers(0, 10, (rows, number, self.digits))
        asked = np.argsort(random.random((rows, number)), axis=1)[:, : self.questions]
        return hide(sentences, asked, self.digits, text_without(self.text, OPENING), self.length, random)

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(recite(inputs, self._opening, self.digits, self.questions))
