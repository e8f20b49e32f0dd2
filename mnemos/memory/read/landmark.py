"""Softmax in two stages: which block, told by its landmark, and which entry of the block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read, masked_softmax
from mnemos.memory.read.softmax import check_scores


@dataclass(frozen=True)
class Landmark(Read):
    """Landmark attention (arXiv 2305.16300). Tokens come in blocks of `block` ordinary ones and a landmark, whose key
    stands for the block: positions block, 2 block + 1, ... of the stream are landmarks. With scores s and c the
    query's own block,

        p = softmax(s) over the ordinary entries of c and the landmarks of all earlier blocks
        p = softmax(s) within the ordinary entries of each earlier block b
        weight_j = p_j                        for j in c
                   p_j p_landmark(b)          for j in b
                   0                          for landmarks: what they have for a value is never read

    The weights add up to 1. A block of which no landmark, or nothing but the landmark, is kept has no part in it.

    top: only the blocks of the so many landmarks with the highest scores are read (of equal ones the newest), for each
    query and head by itself; None for all, as in training. scale, rotary, positions, mask: as in `Softmax`.
    """

    block: int = 50
    top: int | None = None
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "kept"
    mask: Mask | None = None
    numbered = True

    def __post_init__(self) -> None:
        check_scores(self)
        expect(self.block >= 1, f"Landmark(block=) is a number of tokens of at least 1; got {self.block}.")
        expect(
            self.top is None or self.top >= 1,
            f"Landmark(top=) is a number of blocks of at least 1, or None for all; got {self.top}.",
        )

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        dtype, asked = scores.dtype, controls["position"][..., None]
        scores = scores if dtype == torch.float64 else scores.float()  # sums within blocks need the precision
        position = asked[..., :1, :] - lag[..., :1, :]  # (B or 1, H or 1, 1, N), the same for all queries
        own = torch.div(position, self.block + 1, rounding_mode="floor")
        landmark = position % (self.block + 1) == self.block
        here = own == torch.div(asked, self.block + 1, rounding_mode="floor")

        number = numbered_groups(own).expand(scores.shape)
        inside = (seen & ~here & ~landmark).expand(scores.shape)
        low = torch.finfo(scores.dtype).min
        high = scores.new_full(scores.shape, low).scatter_reduce(
            -1, number, scores.detach().masked_fill(~inside, low), "amax"
        )
        shifted = (scores - high.gather(-1, number)).masked_fill(~inside, -torch.inf)
        powers = shifted.exp()
        total = torch.zeros_like(scores).scatter_add(-1, number, powers).gather(-1, number)
        within = powers / torch.where(inside, total, 1)

        pointing = seen & ~here & landmark & (total > 0)
        if self.top is not None:
            ranked = scores.detach().masked_fill(~pointing, -torch.inf)
            newest_first = lag[..., :1, :].argsort(-1).expand_as(scores)
            best = ranked.gather(-1, newest_first).sort(dim=-1, descending=True, stable=True).indices[..., : self.top]
            best = newest_first.gather(-1, best)
            pointing = pointing & torch.zeros_like(pointing).scatter(-1, best, torch.ones_like(pointing))
        first = masked_softmax(scores, pointing | (seen & here & ~landmark))
        of_block = torch.zeros_like(scores).scatter_add(-1, number, first.masked_fill(~pointing, 0))
        return torch.where(inside, within * of_block.gather(-1, number), first.masked_fill(landmark, 0)).to(dtype)


def numbered_groups(group: Tensor) -> Tensor:
    """group (..., N) whole numbers -> (..., N): equal ones get an equal number in [0, N)."""
    order = group.argsort(-1)
    ordered = group.gather(-1, order)
    new = (ordered != ordered.roll(1, -1)).long()
    new[..., 0] = 0
    return torch.zeros_like(order).scatter(-1, order, new.cumsum(-1))
