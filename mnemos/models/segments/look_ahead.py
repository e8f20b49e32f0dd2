"""A memory of segments that looks ahead when the next one begins (LaMemo)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration, SegmentAttention
from mnemos.models.segments.base import Carried, Piece, Segments, Stacked, changed
from mnemos.state import State


@dataclass(frozen=True)
class LookAhead(Segments):
    """Look-ahead memory (LaMemo, arXiv 2204.07341). When a segment begins, the embeddings m of the tokens in memory go
    through all blocks again, each attending to those behind it, up to the segment's first token, and merging the
    answer with its last one (`SegmentAttentionLayer.refresh`); what comes out of a block is the next one's memory.

        a = refresh(norm(m)),   m <- m + a,   m <- m + ffn(norm(m))      in each block, where the segment reads norm(m)

    Embeddings and former answers pass no gradient on; the refreshed memory does. The layers are `SegmentAttention`
    with look_ahead=True, all of the same segment and memory.
    """

    @property
    def kept(self) -> str:
        return "a memory that looks ahead"

    def check(self, layers: Sequence[LayerDeclaration]) -> None:
        for layer in layers:
            expect(
                isinstance(layer, SegmentAttention) and layer.look_ahead and layer == layers[0],
                "LookAhead() refreshes the memory of the layers: all of them are the same "
                f"SegmentAttention(look_ahead=True); got {layer}.",
            )

    def build(self, width: int, heads: int, layers: Sequence[LayerDeclaration]) -> RefreshedMemory:
        layer = layers[0]
        assert isinstance(layer, SegmentAttention)
        return RefreshedMemory(self, width, layer, len(layers))


class RefreshedMemory(Carried):
    """What `LookAhead` describes. Its state: the embeddings `past` (B, memory, width), the newest last, and `open`
    (B, segment, width). All else is in the states of the layers."""

    restarts = False

    def __init__(self, spec: LookAhead, width: int, layer: SegmentAttention, depth: int):
        super().__init__(spec, width)
        self.size, self.memory, self.depth = layer.segment, layer.memory, depth

    def fresh_entries(self, like: Tensor) -> dict[str, Tensor | State]:
        sizes = {"past": self.memory, "open": self.size}
        return {n: torch.zeros(1, k, self.width, dtype=like.dtype, device=like.device) for n, k in sizes.items()}

    def enter(
        self, i: int, block: Stacked, x: Tensor, layer: State, state: State, piece: Piece
    ) -> tuple[Tensor, State, State]:
        if not torch.compiler.is_compiling() and not bool(piece.opens.any()):
            return x, layer, state
        m = state["past"].to(x.dtype) if piece.passing is None else piece.passing
        if i == self.depth - 1:  # nothing would read what the memory is answered here
            return x, block.layer.remember(block.norm(m), layer, piece.opens), state
        answer, layer = block.layer.refresh(block.norm(m), block.norm(x[:, :1]), layer, piece.opens)
        piece.passing = block.feed(m + answer)
        return x, layer, state

    def end(self, given: Tensor, hidden: Tensor, last: Tensor, state: State, piece: Piece) -> State:
        given = given.detach().to(state["open"].dtype)
        tokens = torch.where(piece.aligned(self.size)[..., None], given, state["open"])
        ends = piece.ends[:, None, None]
        past = torch.cat([state["past"], tokens], 1)[:, -self.memory :]
        return changed(state, past=torch.where(ends, past, state["past"]), open=torch.where(ends, 0.0, tokens))

    def further_tokens(self, length: int) -> float:
        return length / self.size * self.memory

    def flops(self, length: int) -> float:
        refresh = self.memory * (8.0 * self.width**2 + 6.0 * self.memory * self.width)
        return (self.depth - 1) * refresh * length / self.size
