"""Induction heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "induction",
    source="arXiv 2212.14052, with the sizes of arXiv 2312.00752",
    differences=('cue="any" is our own: the cue is then drawn anew for every row',),
)
@dataclass(frozen=True)
class Induction(TokenTask):
    """One token comes a second time: what followed it when it was seen last?

        x x x x c a x x x x x x ... x c        asked at the last token; the answer is a

    tokens: every x, and a, is drawn from [0, tokens). cue: "special", c is the token `tokens`, which stands nowhere
    else; "any", c is drawn from [0, tokens) for every row, and x and a from the other tokens: what follows any token
    must be kept, and knowing c leaves 1 / (tokens - 1) by guessing. The first c stands at any place, all equally
    likely.
    facts: "delay", tokens from a to the question.
    """

    length: int = 256
    tokens: int = 16
    cue: Literal["special", "any"] = "special"

    facts: ClassVar[tuple[str, ...]] = ("delay",)

    def __post_init__(self) -> None:
        self.at_least(length=3, tokens=3)
        expect(self.cue in ("special", "any"), f'Induction(cue=) is "special" or "any"; got {self.cue!r}.')

    @property
    def vocabulary(self) -> int:
        return self.tokens + (self.cue == "special")

    @property
    def chance(self) -> float:
        return 1 / self.tokens

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        shape, row = (rows, self.length), np.arange(rows)
        if self.cue == "special":
            cue = np.full(rows, self.tokens)
            inputs = random.integers(0, self.tokens, shape)
        else:
            cue = random.integers(0, self.tokens, rows)
            inputs = random.integers(0, self.tokens - 1, shape)
            inputs += inputs >= cue[:, None]
        at = random.integers(0, self.length - 2, rows)
        inputs[row, at] = inputs[:, -1] = cue
        targets, delay = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        asked = np.zeros(shape, dtype=bool)
        targets[:, -1], delay[:, -1], asked[:, -1] = inputs[row, at + 1], self.length - 2 - at, True
        facts = {"delay": torch.from_numpy(delay)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        same = inputs[:, :-1] == inputs[:, -1:]
        following = inputs.gather(1, same.int().argmax(1, keepdim=True) + 1)
        said = torch.full_like(inputs, UNKNOWN)
        said[:, -1:] = torch.where(same.any(1, keepdim=True), following, UNKNOWN)
        return self.answers(said)
