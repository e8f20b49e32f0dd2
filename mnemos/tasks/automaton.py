"""The state of a finite automaton that reads a stream of symbols."""

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
    "automaton",
    source="arXiv 2210.10749 (simulation of semiautomata)",
    differences=(
        "automata are random; there they are known ones, such as parity, flip-flops and groups",
        "the first state is drawn, and shown as a token",
        "the table as part of the sequence is ours",
    ),
)
@dataclass(frozen=True)
class Automaton(TokenTask):
    """A random automaton reads symbols: in which state is it?

        [q a q' ...] s a_1 a_2 ...        asked at every a; the answer is the state after s and a_1 ... a_t

    Symbols are the tokens [0, symbols), states those that follow; first states and symbols are drawn evenly. The table
    is drawn evenly from those by which every state can be reached from every other.
    states: how many, from 2 to 16.
    symbols: how many, at least 2.
    table: "fixed", one automaton for all sequences, which the weights must hold, or "given": a new one in every
    sequence, which begins with all its transitions (from state q with symbol a to q') in any order.
    moves: "permutations", each symbol permutes the states, so that no symbol ever read can be left out; or "any", each
    symbol leads from each state anywhere: what was read long ago is mostly forgotten, and with a fixed table the last
    symbols alone tell something of the state.
    seed: which automaton a fixed table is.
    facts: "steps", the number of symbols so far.
    """

    length: int = 64
    states: int = 4
    symbols: int = 2
    table: Literal["fixed", "given"] = "fixed"
    moves: Literal["permutations", "any"] = "permutations"
    seed: int = 0

    facts: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        self.at_least(states=2, symbols=2, seed=0)
        expect(
            self.states <= 16,
            f"Automaton(states=) must be at most 16: among larger tables too few are connected; got {self.states}.",
        )
        expect(self.table in ("fixed", "given"), f'Automaton(table=) is "fixed" or "given"; got {self.table!r}.')
        expect(
            self.moves in ("permutations", "any"),
            f'Automaton(moves=) is "permutations" or "any"; got {self.moves!r}.',
        )
        least = self.header + 2
        expect(
            self.length >= least,
            f"Automaton(length=) must be at least {least}: {self.header} tokens for the table, the first state and one "
            f"symbol; got {self.length}.",
        )

    @property
    def header(self) -> int:
        """How many tokens the table takes."""
        return 3 * self.states * self.symbols if self.table == "given" else 0

    @property
    def vocabulary(self) -> int:
        return self.symbols + self.states

    @property
    def transitions(self) -> np.ndarray:
        """The fixed table, (states, symbols): the state that follows."""
        return _fixed(self.states, self.symbols, self.moves, self.seed)

    @property
    def chance(self) -> float:
        if self.table == "given" or self.moves == "permutations":
            return 1 / self.states
        likely, total, steps = np.full(self.states, 1 / self.states), 0.0, self.length - 1
        for _ in range(steps):
            after = np.zeros_like(likely)
            np.add.at(after, self.transitions, likely[:, None] / self.symbols)
            likely = after
            total += likely.max()
        return float(total / steps)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        inputs = np.empty((rows, self.length), dtype=np.int64)
        if self.table == "given":
            tables = _connected(random, rows, self.states, self.symbols, self.moves)
            order = random.permuted(
                np.broadcast_to(np.arange(self.states * self.symbols), (rows, tables[0].size)), axis=1
            )
            after = np.take_along_axis(tables.reshape(rows, -1), order, 1)
            listed = np.stack([order // self.symbols + self.symbols, order % self.symbols, after + self.symbols], -1)
            inputs[:, : self.header] = listed.reshape(rows, -1)
        inputs[:, self.header] = random.integers(0, self.states, rows) + self.symbols
        inputs[:, self.header + 1 :] = random.integers(0, self.symbols, (rows, self.length - self.header - 1))
        targets = torch.from_numpy(self._states(inputs)).clamp(min=0)
        asked = torch.zeros(targets.shape, dtype=torch.bool)
        asked[:, self.header + 1 :] = True
        steps = (torch.arange(self.length) - self.header).expand(targets.shape).clone()
        return Batch(torch.from_numpy(inputs), targets, asked, {"steps": steps})

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(torch.from_numpy(self._states(inputs.numpy())))

    def _states(self, inputs: np.ndarray) -> np.ndarray:
        """The states as tokens, UNKNOWN before the first symbol."""
        row, shape = np.arange(len(inputs)), (len(inputs), self.states, self.symbols)
        if self.table == "given":
            tables = np.zeros(shape, dtype=np.int64)
            state, symbol, after = inputs[:, : self.header].reshape(len(inputs), -1, 3).transpose(2, 0, 1)
            tables[row[:, None], state - self.symbols, symbol] = after - self.symbols
        else:
            tables = np.broadcast_to(self.transitions, shape)
        found, state = np.full_like(inputs, UNKNOWN), inputs[:, self.header] - self.symbols
        for t in range(self.header + 1, inputs.shape[1]):
            state = tables[row, state, inputs[:, t]]
            found[:, t] = state + self.symbols
        return found


def _connected(random: np.random.Generator, rows: int, states: int, symbols: int, moves: str) -> np.ndarray:
    """Tables (rows, states, symbols) by which every state can be reached from every other."""
    tables, wrong = np.empty((rows, states, symbols), dtype=np.int64), np.ones(rows, dtype=bool)
    while wrong.any():
        shape = (int(wrong.sum()), symbols, states)
        if moves == "permutations":
            drawn = np.argsort(random.random(shape), axis=-1)
        else:
            drawn = random.integers(0, states, shape)
        tables[wrong] = drawn.transpose(0, 2, 1)
        wrong[wrong] = ~_all_reached(tables[wrong])
    return tables


def _all_reached(tables: np.ndarray) -> np.ndarray:
    """By which tables (rows, states, symbols) every state can be reached from every other: (rows,)."""
    states = tables.shape[1]
    reached = ((tables[..., None] == np.arange(states)).any(2) | np.eye(states, dtype=bool)).astype(np.float32)
    for _ in range(states.bit_length()):
        reached = np.minimum(reached @ reached, 1)
    return reached.all((1, 2))


@functools.lru_cache(maxsize=64)
def _fixed(states: int, symbols: int, moves: str, seed: int) -> np.ndarray:
    table = _connected(np.random.default_rng(seed), 1, states, symbols, moves)[0]
    table.setflags(write=False)
    return table
