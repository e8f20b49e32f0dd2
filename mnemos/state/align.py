"""Rows that stand at different places of a chunk, shifted so that their chunks fall together."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_to_chunks(
    inputs: list[Tensor], phase: Tensor, lengths: Tensor | None, size: int
) -> tuple[list[Tensor], Tensor]:
    """Every row (B, T, ...) moved right by its `phase` (B,), its place within a chunk of `size` tokens.

    Returns the rows, filled up to a whole number of chunks, and which of their tokens (B, chunks * size) are real.
    """
    length = inputs[0].shape[1]
    total = length + (size - 1 if torch.compiler.is_compiling() else int(phase.max()))
    total += -total % size
    source = torch.arange(total, device=phase.device) - phase[:, None]
    end = torch.full_like(phase, length) if lengths is None else lengths
    index = source.clamp(0, length - 1)

    def move(x: Tensor) -> Tensor:
        at = index.view(*index.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
        return x.gather(1, at)

    return [move(x) for x in inputs], (source >= 0) & (source < end[:, None])


def shift_back(x: Tensor, phase: Tensor, length: int) -> Tensor:
    """The first `length` tokens of each row as they stood before `shift_to_chunks`."""
    positions = phase[:, None] + torch.arange(length, device=x.device)
    return x.gather(1, positions.view(*positions.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))
