"""Questions about a small story whose sentences are scattered in long text."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.haystack import scatter
from mnemos.tasks.registry import task
from mnemos.tasks.stories import NUMBER, WORDS, Question, happening, question
from mnemos.tasks.text import text_bytes

BYTES = 256
ASKED = 4


@task(
    "scattered_facts",
    source="arXiv 2406.10149 (BABILong), with stories after the first three tasks of arXiv 1502.05698 (bAbI)",
    differences=(
        "stories are drawn anew for every row; there they are those of the bAbI data set",
        "a word of the story is one token, a byte of the text another; there all is one running text",
        "questions of one, two and three facts are mixed, all about stories of people and things",
        "sentences stand anywhere in running text, not between its sentences",
    ),
)
@dataclass(frozen=True)
class ScatteredFacts(TokenTask):
    """The sentences of a story stand scattered in long text: where is this person, where is that thing, where was it?

        text mary went kitchen text mary took milk text mary went garden text milk was before garden

    asked once, at the last token; the answer is a place. Tokens 0 to 255 are the bytes of the text, 256 + n the word n
    of `mnemos.tasks.WORDS`; the question's four words have the nil word before them where they are fewer. A question
    takes one fact ("where is mary"), two ("where is milk", which is where the person who has it went) or three ("milk
    was before garden": the place where it was before that one, so that garden itself cannot be the answer). Stories are
    short: the place named last is the answer to 41 % of the questions of one fact, 34 % of two and 10 % of three.
    hops: the most facts, 1 to 3; each row's number of them is drawn evenly. With 1, only people are told of. sentences:
    of the story, at least as many as the question may need: 1, 2 or 4. text: where it comes from: a file, a folder,
    or `stdlib`, Python's own library. The sentences stand at places drawn evenly, even within a word. A longer sequence
    has more text.
    facts: "hops", the facts that the question takes; "delay", tokens from where the answer was told to the question.
    """

    length: int = 256
    hops: int = 3
    sentences: int = 8
    text: str = "stdlib"

    facts: ClassVar[tuple[str, ...]] = ("hops", "delay")

    def __post_init__(self) -> None:
        expect(self.hops in (1, 2, 3), f"ScatteredFacts(hops=) is 1, 2 or 3; got {self.hops}.")
        self.at_least(sentences=(1, 2, 4)[self.hops - 1])
        least = 3 * self.sentences + ASKED
        expect(
            self.length >= least,
            f"ScatteredFacts(length=) must be at least {least}: sentences={self.sentences} of three words and the "
            f"question of {ASKED} stand there; got {self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return BYTES + len(WORDS)

    @property
    def chance(self) -> float:
        return 1 / 6

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        hops = random.integers(1, self.hops + 1, rows)
        stories = Random(int(random.integers(2**63)))
        told, asked, answers, lines = [], [], [], []
        for number in hops:
            said, found = self._story(stories, int(number))
            told.append([[BYTES + NUMBER[word] for word in line] for line in said])
            asked.append([BYTES + NUMBER[word] for word in ("", *found.words)[-ASKED:]])
            answers.append(BYTES + NUMBER[found.answer])
            lines.append(found.line)

        context = self.length - ASKED
        tokens, starts = scatter(np.array(told), text_bytes(self.text), context, random)
        shape = (rows, self.length)
        targets, hop, delay = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        where = torch.zeros(shape, dtype=torch.bool)
        where[:, -1], targets[:, -1], hop[:, -1] = True, torch.tensor(answers), torch.from_numpy(hops)
        # a place is the last word of the line that tells it
        delay[:, -1] = torch.from_numpy(self.length - 1 - (starts[np.arange(rows), lines] + 2))
        inputs = torch.from_numpy(np.concatenate([tokens, np.array(asked)], axis=1))
        return Batch(inputs, targets, where, {"hops": hop, "delay": delay})

    def _story(self, chance: Random, hops: int) -> tuple[list[list[str]], Question]:
        while True:
            said, trails = happening(chance, self.sentences, things=self.hops > 1)
            found = question(chance, hops, trails)
            if found is not None:
                return said, found

    def solve(self, inputs: Tensor) -> Tensor:
        answers = torch.full_like(inputs, UNKNOWN)
        for row, tokens in enumerate(inputs.numpy()):
            said = [WORDS[token - BYTES] if token >= BYTES else None for token in tokens]
            answer = _follow(said[:-ASKED], [word for word in said[-ASKED:] if word])
            if answer is not None:
                answers[row, -1] = BYTES + NUMBER[answer]
        return self.answers(answers)


def _follow(said: list[str | None], asked: list[str]) -> str | None:
    """The answer to the question by what was said, if that tells it; None stands for a byte of the text."""
    trails: dict[str, list[str]] = {}
    holder: dict[str, str] = {}
    for person, deed, what in zip(said, said[1:], said[2:], strict=False):
        if person is None or what is None:
            continue
        if deed == "went":
            for name in (person, *(thing for thing, by in holder.items() if by == person)):
                trails.setdefault(name, []).append(what)
        elif deed == "took" and person in trails:
            holder[what] = person
            place = trails[person][-1]
            if trails.setdefault(what, [place])[-1] != place:
                trails[what].append(place)
        elif deed == "dropped":
            holder.pop(what, None)
    if asked[:2] == ["where", "is"]:
        return trails.get(asked[2], [None])[-1]
    return trails[asked[0]][-2] if len(trails.get(asked[0], ())) > 1 else None
