"""The parity of a stream of bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "parity",
    source="arXiv 2207.02098 (parity check, asked=last), and arXiv 2507.09897 (streaming parity, asked=every)",
    differences=("the question stands at a bit itself: no empty token follows the string",),
)
@dataclass(frozen=True)
class Parity(TokenTask):
    """Fair bits: is the number of ones so far odd?

        b_1 b_2 ... b_T        asked at every bit, or at the last; the answer is (b_1 + ... + b_t) mod 2

    The tokens are 0 and 1, and so are the answers.
    asked: "every" bit, or the "last" one only, which is far harder to learn from.
    facts: "steps", the number of bits so far.
    """

    asked: Literal["every", "last"] = "every"

    facts: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        self.at_least(length=2)
        expect(self.asked in ("every", "last"), f'Parity(asked=) is "every" or "last"; got {self.asked!r}.')

    @property
    def vocabulary(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 0.5

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        inputs = torch.from_numpy(random.integers(0, 2, (rows, self.length)))
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[:, 0 if self.asked == "every" else -1 :] = True
        steps = torch.arange(1, self.length + 1).expand(inputs.shape).clone()
        return Batch(inputs, inputs.cumsum(1) % 2, asked, {"steps": steps})

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(inputs.cumsum(1) % 2)
