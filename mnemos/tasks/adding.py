"""The adding problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, VectorTask
from mnemos.tasks.registry import task


@task(
    "adding",
    source="arXiv 1511.06464, after Hochreiter and Schmidhuber 1997",
    differences=("scored by the squared error over the mean square of the answers; there by the squared error",),
)
@dataclass(frozen=True)
class Adding(VectorTask):
    """Numbers, a few of them marked: what is the sum of the marked ones?

        u_1   u_2   ...   u_T
        0     1     ...   0          asked at the last place; the answer is the sum of u where the mark is 1

    terms: how many are marked, at any place, one in each of so many equal stretches of the sequence. Every u is drawn
    evenly from [0, 1), so that always answering terms / 2 scores 1 / (1 + 3 terms).
    facts: "delay", tokens from the first marked number to the question.
    """

    terms: int = 2

    facts: ClassVar[tuple[str, ...]] = ("delay",)

    def __post_init__(self) -> None:
        self.at_least(terms=1)
        expect(
            self.length >= self.terms,
            f"Adding(length=) must be at least terms={self.terms}, one number each; got {self.length}.",
        )

    @property
    def inputs(self) -> int:
        return 2

    @property
    def outputs(self) -> int:
        return 1

    @property
    def mean_square(self) -> float:
        return self.terms / 12 + self.terms**2 / 4

    @property
    def chance(self) -> float:
        return 1 / (1 + 3 * self.terms)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        begins = np.arange(self.terms + 1) * self.length // self.terms
        marked = random.integers(begins[:-1], begins[1:], (rows, self.terms))
        inputs = np.zeros((rows, self.length, 2), dtype=np.float32)
        inputs[..., 0] = random.random((rows, self.length), dtype=np.float32)
        np.put_along_axis(inputs[..., 1], marked, 1, 1)
        targets = np.zeros((rows, self.length, 1), dtype=np.float32)
        targets[:, -1, 0] = (inputs[..., 0] * inputs[..., 1]).sum(1)
        asked, delay = np.zeros((rows, self.length), dtype=bool), np.zeros((rows, self.length), dtype=np.int64)
        asked[:, -1], delay[:, -1] = True, self.length - 1 - marked[:, 0]
        facts = {"delay": torch.from_numpy(delay)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        return (inputs[..., 0] * inputs[..., 1]).cumsum(1)[..., None]
