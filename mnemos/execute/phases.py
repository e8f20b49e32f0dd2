"""Rows that stand at different places of a chunk: shifted for the work, and what it leaves put back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mnemos.execute.chunks import join, live_tokens
from mnemos.state.align import shift_back, shift_to_chunks


class InPhase(NamedTuple):
    """A sequence whose chunks fall together in all rows.

    inputs: (B, T', ...) by name. live (B or 1, 1, N, size): which tokens of its chunks are real; None if all are.
    opens (B, 1, 1, 1): the rows whose first chunk begins with the sequence; None if all rows' do, and nothing was
    shifted.
    """

    inputs: dict[str, Tensor]
    live: Tensor | None
    opens: Tensor | None
    phase: Tensor
    length: int

    @classmethod
    def of(cls, inputs: dict[str, Tensor], phase: Tensor, lengths: Tensor | None, size: int) -> InPhase:
        """inputs (B, T, ...) by name, each row `phase` (B,) tokens into a chunk of `size`."""
        first = next(iter(inputs.values()))
        length = first.shape[1]
        if not torch.compiler.is_compiling() and not bool(phase.any()):
            return cls(inputs, live_tokens(length, lengths, size, first.device), None, phase, length)
        moved, real = shift_to_chunks(list(inputs.values()), phase, lengths, size)
        opens = (phase == 0)[:, None, None, None]
        shifted = dict(zip(inputs, moved, strict=True))
        return cls(shifted, real.view(len(phase), 1, -1, size), opens, phase, length)

    def back(self, chunks: Tensor) -> Tensor:
        """Outputs (B, H, N, size, V) as the tokens stood before: (B, T, H, V)."""
        if self.opens is None:
            return join(chunks, self.length)
        return shift_back(join(chunks, chunks.shape[2] * chunks.shape[3]), self.phase, self.length)

    def reached(self, number: int) -> list[Tensor | None]:
        """For each of the chunks, the rows (B or 1, 1, 1, 1) that have real tokens in it; None if all have."""
        if self.live is None:
            return [None] * number
        rows = self.live.any(-1)[..., None, None]
        every = [False] * number if torch.compiler.is_compiling() else rows.all(0).flatten().tolist()
        return [None if all_ else here for all_, here in zip(every, rows.unbind(2), strict=True)]


def where(rows: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """`new` (B, ...) in these rows, `old` elsewhere; None: in all rows."""
    return new if rows is None else torch.where(rows, new, old)
