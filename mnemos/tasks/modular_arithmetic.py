"""The value of a sum of products modulo m."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "modular_arithmetic",
    source="arXiv 2207.02098 (modular arithmetic, simple), and its code",
    differences=(
        "asked at the numbers themselves, and of every beginning unless asked=last; there at the end only",
        "evaluation from left to right is ours; there multiplication always binds stronger",
    ),
)
@dataclass(frozen=True)
class ModularArithmetic(TokenTask):
    """Numbers with + - * between and no brackets: what is the value so far?

        n_1 o_1 n_2 o_2 n_3 ...        asked at n_2, n_3, ..., or at the last; the answer is n_1 o_1 ... n_k, modulo m

    Numbers and answers are the tokens [0, modulus), the operators those that follow; both are drawn evenly. A sequence
    of even length ends with an operator. Products make 0 a little likelier than other answers, which `chance` counts.
    modulus: m.
    operators: any of + - *, each once.
    order: "precedence", multiplication before the rest, or "left", one after another from the left.
    asked: "every" number but the first, or the "last" one only.
    facts: "steps", the number of operations so far.
    """

    length: int = 64
    modulus: int = 5
    operators: str = "+-*"
    order: Literal["precedence", "left"] = "precedence"
    asked: Literal["every", "last"] = "every"

    facts: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        self.at_least(length=3, modulus=2)
        given = set(self.operators) if isinstance(self.operators, str) else set()
        expect(
            bool(given) and given <= set("+-*") and len(given) == len(self.operators),
            f"ModularArithmetic(operators=) is some of + - *, each once, such as +-*; got {self.operators!r}.",
        )
        expect(
            self.order in ("precedence", "left"),
            f'ModularArithmetic(order=) is "precedence" or "left"; got {self.order!r}.',
        )
        expect(self.asked in ("every", "last"), f'ModularArithmetic(asked=) is "every" or "last"; got {self.asked!r}.')

    @property
    def numbers(self) -> int:
        """How many numbers a sequence holds."""
        return (self.length + 1) // 2

    @property
    def vocabulary(self) -> int:
        return self.modulus + len(self.operators)

    @property
    def chance(self) -> float:
        likeliest = _likeliest(self.modulus, self.operators, self.order, self.numbers)
        return likeliest[-1] if self.asked == "last" else sum(likeliest) / len(likeliest)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        inputs = np.empty((rows, self.length), dtype=np.int64)
        inputs[:, ::2] = random.integers(0, self.modulus, (rows, self.numbers))
        inputs[:, 1::2] = random.integers(self.modulus, self.vocabulary, (rows, self.length // 2))
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[:, 2 * self.numbers - 2 if self.asked == "last" else 2 :: 2] = True
        targets = torch.from_numpy(self._values(inputs)).clamp(min=0)
        steps = (torch.arange(self.length) // 2).expand(inputs.shape).clone()
        return Batch(torch.from_numpy(inputs), targets, asked, {"steps": steps})

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(torch.from_numpy(self._values(inputs.numpy())))

    def _values(self, inputs: np.ndarray) -> np.ndarray:
        """The value so far at every number, UNKNOWN at the operators."""
        found = np.full_like(inputs, UNKNOWN)
        done, term = np.zeros_like(inputs[:, 0]), inputs[:, 0]  # the value is done + term
        found[:, 0] = term
        for t in range(2, inputs.shape[1], 2):
            number, sign = inputs[:, t], inputs[:, t - 1] - self.modulus
            times = sign == self.operators.find("*")
            minus = sign == self.operators.find("-")
            if self.order == "left":
                done, term = np.zeros_like(done), (done + term) % self.modulus
            done = np.where(times, done, (done + term) % self.modulus)
            term = np.where(times, term * number, np.where(minus, -number, number)) % self.modulus
            found[:, t] = (done + term) % self.modulus
        return found


@functools.lru_cache(maxsize=64)
def _likeliest(modulus: int, operators: str, order: str, numbers: int) -> list[float]:
    """The probability of the likeliest value after 1, 2, ... operations."""
    every = np.arange(modulus)
    multiplied = np.zeros((modulus, modulus))  # from a term to the term times a number
    np.add.at(multiplied, (every[:, None], np.outer(every, every) % modulus), 1 / modulus)
    diagonal = (every[None, :] - every[:, None]) % modulus  # [done, value]: the term that makes this value
    share = ("*" in operators) / len(operators)
    both = np.zeros((modulus, modulus))  # [done, term]
    both[0] = 1 / modulus
    likeliest = []
    for _ in range(numbers - 1):
        value = both[every[:, None], diagonal].sum(0)
        if order == "left":
            both = np.zeros_like(both)
            both[0] = value
        both = share * both @ multiplied + (1 - share) * value[:, None] / modulus
        likeliest.append(float(both[every[:, None], diagonal].sum(0).max()))
    return likeliest
