"""Chains of variables, each assigned the one before."""

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
    "variable_chains",
    source="arXiv 2404.06654 (variable tracking of RULER), asked the way of arXiv 2505.20896",
    differences=(
        "asked for the value of a variable, as in 2505.20896; in RULER for all variables of a value",
        "every variable is asked for, at the end; in 2505.20896 one is",
        "every chain has as many hops, as in RULER, and no chain branches",
        "tokens rather than text, and blanks rather than sentences between",
    ),
)
@dataclass(frozen=True)
class VariableChains(TokenTask):
    """Assignments of values and of variables to variables: what is the value of each?

        x_1 v_1 . . x_2 x_1 . x_3 v_2 ... x_4 x_2 . .  x_2 x_3 x_1 ...        asked at every x of the last part

    An assignment is two tokens, a variable and what it is assigned: a value or another variable. Each chain begins with
    a value and goes on with `hops` variables, each assigned the one before. All variables are different ones of
    [1, names], all values different ones of the `values` tokens after those; the blank is 0. After the assignments,
    which stand anywhere in the rest of the sequence, each variable comes once more, in any order; the answer is the
    value at the beginning of its chain.
    chains: how many; a guess from the values that were shown is right once in so many times.
    hops: from the last variable of a chain to the first.
    names: how many variables there are to choose from.
    values: how many values there are to choose from.
    order: "forward", what is assigned was assigned before, so that each assignment can be followed when it is read; or
    "any", so that the value may come last.
    facts: "hops", from the variable to the first of its chain; "delay", tokens from the value to the question.
    """

    length: int = 96
    chains: int = 4
    hops: int = 3
    names: int = 32
    values: int = 16
    order: Literal["forward", "any"] = "forward"

    facts: ClassVar[tuple[str, ...]] = ("hops", "delay")

    def __post_init__(self) -> None:
        self.at_least(chains=1, hops=0, values=2)
        expect(
            self.names >= self.variables,
            f"VariableChains(names=) must be at least chains * (hops + 1) = {self.variables}, a name for every "
            f"variable; got {self.names}.",
        )
        expect(
            self.values >= self.chains,
            f"VariableChains(values=) must be at least chains={self.chains}, a value for each; got {self.values}.",
        )
        expect(
            self.length >= 3 * self.variables,
            f"VariableChains(length=) must be at least 3 * chains * (hops + 1) = {3 * self.variables}: two tokens for "
            f"each assignment and one for each question; got {self.length}.",
        )
        expect(self.order in ("forward", "any"), f'VariableChains(order=) is "forward" or "any"; got {self.order!r}.')

    @property
    def variables(self) -> int:
        """How many variables a sequence holds, and how many questions."""
        return self.chains * (self.hops + 1)

    @property
    def vocabulary(self) -> int:
        return 1 + self.names + self.values

    @property
    def chance(self) -> float:
        return 1 / self.values

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        number, links = self.variables, self.hops + 1
        row = np.arange(rows)[:, None]
        # variable c * links + h is h hops from the value of chain c
        names = _different(random, rows, self.names, number) + 1
        values = _different(random, rows, self.values, self.chains) + 1 + self.names
        assigned = np.roll(names, 1, axis=1)
        assigned[:, ::links] = values

        turn = np.argsort(random.random((rows, number)), axis=1)  # the variable of each assignment
        if self.order == "forward":
            chain, sorted_turns = turn // links, np.empty_like(turn)
            for c in range(self.chains):
                here = chain == c
                sorted_turns = np.where(here, c * links + here.cumsum(1) - 1, sorted_turns)
            turn = sorted_turns
        before = self.length - number
        free = np.sort(_different(random, rows, before - number, number), axis=1)
        at = free + np.arange(number)  # each assignment takes one place more than it was given

        inputs = np.zeros((rows, self.length), dtype=np.int64)
        inputs[row, at], inputs[row, at + 1] = names[row, turn], assigned[row, turn]
        asked_for = np.argsort(random.random((rows, number)), axis=1)
        inputs[:, before:] = names[row, asked_for]

        written = np.empty_like(at)
        written[row, turn] = at + 1
        chain = asked_for // links
        targets, hops, gap = (np.zeros_like(inputs) for _ in range(3))
        targets[:, before:] = values[row, chain]
        hops[:, before:] = asked_for % links
        gap[:, before:] = np.arange(before, self.length) - written[row, chain * links]
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[:, before:] = True
        facts = {"hops": torch.from_numpy(hops), "delay": torch.from_numpy(gap)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), asked, facts)

    def solve(self, inputs: Tensor) -> Tensor:
        tokens, before = inputs.numpy(), self.length - self.variables
        row = np.arange(len(tokens))
        assigned = np.zeros((len(tokens), self.vocabulary), dtype=np.int64)
        assigned[:, self.names + 1 :] = np.arange(self.names + 1, self.vocabulary)
        variable = np.zeros(len(tokens), dtype=np.int64)  # that waits for what it is assigned
        for t in range(before):
            here = tokens[:, t]
            assigned[row, variable] = np.where(variable > 0, here, assigned[row, variable])
            variable = np.where(variable > 0, 0, here)
        found = np.full_like(tokens, UNKNOWN)
        value = tokens[:, before:]
        for _ in range(self.hops + 1):
            value = np.take_along_axis(assigned, value, 1)
        found[:, before:] = np.where(value > self.names, value, UNKNOWN)
        return self.answers(torch.from_numpy(found))


def _different(random: np.random.Generator, rows: int, below: int, number: int) -> np.ndarray:
    """Numbers from [0, below), all different within a row: (rows, number)."""
    return np.argsort(random.random((rows, below)), axis=1)[:, :number]
