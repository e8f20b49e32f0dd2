"""An array that is written and read by index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "random_access",
    source="in the manner of arXiv 1511.06392 (access to memory by pointers)",
    differences=("sequences of reads and writes are ours; there programs read and change a memory given beforehand",),
)
@dataclass(frozen=True)
class RandomAccess(TokenTask):
    """An array, then reads and writes by index: what does the cell hold?

        [p_0 ... p_(n-1) ...] v_0 ... v_(n-1)  i ?  i v  i ? ...        asked at ?, the answer is the value of cell i

    The cells n come first, without their indices: an index means a place. Then each operation takes two tokens, an
    index and either ? (read) or a value (write). Indices are the tokens [0, cells), values the next ones, ? the last;
    all are drawn evenly. The last operation is a read; where an odd number of tokens is left, an index ends the row.
    cells: n; whoever always answers with the first cell is right about once in n times.
    values: how many values there are.
    writes: the share of writes among the other operations.
    indirections: d arrays of n indices come before the array, and index i means cell p_d[... p_1[i]]; writes too.
    facts: "delay", tokens from the value to the question; "overwritten", how many writes the cell has had.
    """

    length: int = 64
    cells: int = 8
    values: int = 16
    writes: float = 0.25
    indirections: int = 0

    facts: ClassVar[tuple[str, ...]] = ("delay", "overwritten")

    def __post_init__(self) -> None:
        self.at_least(cells=2, values=2, indirections=0)
        expect(0 <= self.writes < 1, f"RandomAccess(writes=) must be in [0, 1); got {self.writes}.")
        least = self.header + 2
        expect(
            self.length >= least,
            f"RandomAccess(length=) must be at least {least}: cells * (indirections + 1) = {self.header} tokens for "
            f"the arrays, and two for a read; got {self.length}.",
        )

    @property
    def header(self) -> int:
        """How many tokens the arrays take."""
        return self.cells * (self.indirections + 1)

    @property
    def vocabulary(self) -> int:
        return self.cells + self.values + 1

    @property
    def chance(self) -> float:
        return 1 / self.values

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        shape, number = (rows, self.length), (self.length - self.header) // 2
        inputs = random.integers(0, self.cells, shape)  # pointers and indices; the rest is put in
        values = random.integers(self.cells, self.cells + self.values, shape)
        inputs[:, self.header - self.cells : self.header] = values[:, : self.cells]
        read = random.random((rows, number)) >= self.writes
        read[:, -1] = True
        second = slice(self.header + 1, self.header + 2 * number, 2)
        inputs[:, second] = np.where(read, self.vocabulary - 1, values[:, second])
        found, gap, overwritten = self._run(inputs)
        facts = {"delay": torch.from_numpy(gap), "overwritten": torch.from_numpy(overwritten)}
        known = torch.from_numpy(found)
        return Batch(torch.from_numpy(inputs), known.clamp(min=0), known != UNKNOWN, facts)

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(torch.from_numpy(self._run(inputs.numpy())[0]))

    def _run(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is read at each ?, UNKNOWN elsewhere; when it was written, counted back; and how often before."""
        row, start = np.arange(len(inputs)), self.header - self.cells
        cells = inputs[:, start : self.header].copy()
        written = np.broadcast_to(np.arange(start, self.header), cells.shape).copy()
        writes = np.zeros_like(cells)
        found, (gap, overwritten) = np.full_like(inputs, UNKNOWN), (np.zeros_like(inputs) for _ in range(2))
        for t in range(self.header + 1, inputs.shape[1], 2):
            index, second = inputs[:, t - 1], inputs[:, t]
            for level in range(self.indirections):
                index = inputs[row, level * self.cells + index]
            read = second == self.vocabulary - 1
            found[:, t] = np.where(read, cells[row, index], UNKNOWN)
            gap[:, t], overwritten[:, t] = t - written[row, index], writes[row, index]
            cells[row, index] = np.where(read, cells[row, index], second)
            written[row, index] = np.where(read, written[row, index], t)
            writes[row, index] += ~read
        return found, gap, overwritten
