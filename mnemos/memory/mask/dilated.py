"""Every so manyth of the recent entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask.base import Mask


@dataclass(frozen=True)
class Dilated(Mask):
    """Entries 0, gap, 2 gap, ... window * gap tokens ago (Longformer's dilated window, arXiv 2004.05150).

    window: entries looked at beside the current one; gap: tokens between two of them, 1 for a plain window. A memory
    that keeps Window(window * gap + 1) entries has all it needs.
    """

    window: int = 256
    gap: int = 1

    def __post_init__(self) -> None:
        expect(self.window >= 0, f"Dilated(window=) is a number of entries, at least 0; got {self.window}.")
        expect(self.gap >= 1, f"Dilated(gap=) is a number of tokens of at least 1; got {self.gap}.")

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        lag = asked - position
        return (lag <= self.window * self.gap) & (lag % self.gap == 0)

    @property
    def reach(self) -> int | None:
        return self.window * self.gap
