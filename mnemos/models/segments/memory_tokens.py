"""Memory tokens that a segment reads at its beginning and writes at its end (recurrent memory transformer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration
from mnemos.models.segments.base import Carried, Piece, Segments, changed, with_rows
from mnemos.state import State


@dataclass(frozen=True)
class MemoryTokens(Segments):
    """Recurrent memory (RMT, arXiv 2207.06881): with tokens X_s of segment s, all layers run afresh on

        [m_s; X_s; m_s],   m_s+1 = what comes out, behind the model's last norm, at the places of the second m_s

    m_0 is learned. Gradients flow from segment to segment; `State.detach` cuts them.

    size: tokens of a segment. count: memory tokens; 0 for a model of separate segments.
    """

    size: int = 64
    count: int = 8

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"MemoryTokens(size=) is a number of tokens of at least 1; got {self.size}.")
        expect(self.count >= 0, f"MemoryTokens(count=) is a number of tokens of at least 0; got {self.count}.")

    @property
    def kept(self) -> str:
        return f"{self.count} memory tokens"

    def build(self, width: int, heads: int, layers: Sequence[LayerDeclaration]) -> CarriedTokens:
        return CarriedTokens(self, width)


class CarriedTokens(Carried):
    """What `MemoryTokens` describes. Its state: `tokens` (B, count, width)."""

    def __init__(self, spec: MemoryTokens, width: int):
        super().__init__(spec, width)
        self.size, self.before, self.behind = spec.size, spec.count, spec.count
        self.initial = nn.Parameter(0.02 * torch.randn(spec.count, width)) if spec.count else None

    def fresh_entries(self, like: Tensor) -> dict[str, Tensor | State]:
        return {} if self.initial is None else {"tokens": self.initial[None]}

    def first(self, state: State) -> Tensor:
        return state["tokens"]

    def last(self, state: State) -> Tensor:
        return state["tokens"]

    def end(self, given: Tensor, hidden: Tensor, last: Tensor, state: State, piece: Piece) -> State:
        if self.initial is None:
            return state
        return changed(state, tokens=with_rows(piece.ends, last, state["tokens"]))
