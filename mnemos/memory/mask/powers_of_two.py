"""Blocks at distances that are powers of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask.base import Mask


@dataclass(frozen=True)
class PowersOfTwo(Mask):
    """PowerAttention (arXiv 2503.03588). With tokens in blocks of `block`, a query in block I sees block J if I - J is
    0, a power of two or less than `window`, or J < `sinks`: about log2 of the blocks, and after d layers everything
    less than 2^d blocks away has had its say.

    window counts the query's own block; 0 and 1 are the same. Nothing may be forgotten: an entry is looked at again
    and again, ever more rarely.
    """

    block: int = 64
    window: int = 1
    sinks: int = 0

    def __post_init__(self) -> None:
        expect(self.block >= 1, f"PowersOfTwo(block=) is a number of tokens of at least 1; got {self.block}.")
        expect(self.window >= 0, f"PowersOfTwo(window=) is a number of blocks, at least 0; got {self.window}.")
        expect(self.sinks >= 0, f"PowersOfTwo(sinks=) is a number of blocks, at least 0; got {self.sinks}.")

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        block = position // self.block
        away = asked // self.block - block
        return (away & (away - 1) == 0) | (away < self.window) | (block < self.sinks)

    def candidates(self, first: int, last: int, device: torch.device) -> Tensor | None:
        own = range(first // self.block, last // self.block + 1)
        powers = [2**i for i in range(own.stop.bit_length())]
        blocks = {i - away for i in own for away in (*range(max(self.window, 1)), *powers)} | set(range(self.sinks))
        chosen = torch.tensor(sorted(b for b in blocks if 0 <= b < own.stop), device=device)
        position = (chosen[:, None] * self.block + torch.arange(self.block, device=device)).flatten()
        return position[position <= last]
