"""The average of the values, weighted by the softmax of the scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.declaration import expect
from mnemos.memory.read.base import Read


@dataclass(frozen=True)
class Softmax(Read):
    """o = sum_j softmax_j(scale q . k_j) v_j over the kept entries.

    scale: a number, or None for 1/sqrt(key_dim). rotary: the base of rotary positions (10000 is customary; key_dim
    must be even), or None for no positions. Positions are counted within the kept entries.
    """

    scale: float | None = None
    rotary: float | None = None

    def __post_init__(self) -> None:
        expect(self.scale is None or self.scale > 0, f"Softmax(scale=) must be positive; got {self.scale}.")
        expect(self.rotary is None or self.rotary > 1, f"Softmax(rotary=) is a base above 1; got {self.rotary}.")

    def answer(self, weights: Tensor, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return weights @ values
