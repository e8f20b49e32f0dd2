"""Softmax in two stages: which block, told by its landmark, and which entry of the block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read, highest, masked_softmax
from mnemos.memory.read.softmax import check_scores
from mnemos.memory.rotary import rotate_each


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

    top: only the blocks of the so many landmarks with the highest scores are read (of equal ones, to six decimals, the
    newest), for each query and head by itself; None for all, as in training. scale, rotary, positions, mask: as in
    `Softmax`.

    positions="stingy" is the paper's allocation for streams longer than any in training: what is read stands as near
    as it can. The i-th newest of the blocks chosen is read as if it were i blocks back, its landmark too. To be chosen,
    a landmark is scored where it is if that is at most `top` blocks back, and otherwise at top + 1 blocks. So no
    distance exceeds (top + 2) (block + 1), and with no more than `top` earlier blocks all stand where they are. It
    needs `rotary` and `top`.
    """

    block: int = 50
    top: int | None = None
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original", "stingy"] = "kept"  # pyright: ignore[reportIncompatibleVariableOverride]
    mask: Mask | None = None
    numbered = True

    def __post_init__(self) -> None:
        check_scores(self, "stingy")
        expect(self.block >= 1, f"Landmark(block=) is a number of tokens of at least 1; got {self.block}.")
        expect(
            self.top is None or self.top >= 1,
            f"Landmark(top=) is a number of blocks of at least 1, or None for all; got {self.top}.",
        )
        expect(
            self.positions != "stingy" or (self.rotary is not None and self.top is not None),
            'Landmark(positions="stingy") gives positions to the blocks that are chosen: it needs rotary= and top=; '
            f"got rotary={self.rotary}, top={self.top}.",
        )

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        if self.positions != "stingy":
            return super().respond(q, keys, values, seen, lag, controls)
        weights = self._stingy_weights(q, keys, seen, lag, controls)
        return weights @ values, weights

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        dtype = scores.dtype
        scores = scores if dtype == torch.float64 else scores.float()  # sums within blocks need the precision
        parts = self._parts(scores, seen, lag, controls)
        pointing = parts.pointing
        if self.top is not None:
            pointing = highest(scores, pointing, lag, self.top)
        return two_stages(scores, parts, pointing).to(dtype)

    def _parts(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Parts:
        asked = controls["position"][..., None]
        position = asked[..., :1, :] - lag[..., :1, :]  # (B or 1, H or 1, 1, N), the same for all queries
        own = torch.div(position, self.block + 1, rounding_mode="floor")
        current = torch.div(asked, self.block + 1, rounding_mode="floor")
        landmark = position % (self.block + 1) == self.block
        here = own == current
        number = numbered_groups(own).expand(scores.shape)
        inside = (seen & ~here & ~landmark).expand(scores.shape)
        filled = torch.zeros_like(scores).scatter_add(-1, number, inside.to(scores.dtype)).gather(-1, number) > 0
        return Parts(own, current, number, inside, seen & here & ~landmark, seen & ~here & landmark & filled)

    def _stingy_weights(
        self, q: Tensor, keys: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> Tensor:
        assert self.rotary is not None and self.top is not None
        size, base, dtype = self.block + 1, self.rotary, q.dtype
        blank = q.new_zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        parts = self._parts(blank.expand(*q.shape[:3], keys.shape[2]), seen, lag, controls)
        # Queries and keys turned by their places within their blocks; the query then by blocks in between.
        q = rotate_each(q, -size * parts.current[..., 0], base)
        keys = rotate_each(keys, -size * parts.own[..., 0, :], base)
        scale, scores = self.scale or 1 / math.sqrt(q.shape[-1]), []
        for back in range(self.top + 2):
            asked = rotate_each(q, torch.tensor(size * back, device=q.device), base)
            scores.append((scale * (asked @ keys.mT)).to(blank.dtype))
        told = sum_where((parts.current - parts.own).clamp(max=self.top + 1), scores)
        pointing = highest(told, parts.pointing, lag, self.top)
        chosen = torch.zeros_like(told).scatter_add(-1, parts.number, pointing.to(told.dtype))
        rank = chosen.flip(-1).cumsum(-1).flip(-1).gather(-1, parts.number)  # among the chosen, the newest the first
        read = sum_where(torch.where(parts.here, 0, rank.long()), scores[: self.top + 1])
        return two_stages(read, parts, pointing).to(dtype)


class Parts(NamedTuple):
    """Of N entries and n queries: the block of an entry (B or 1, H or 1, 1, N) and of a query (.., n, 1), the blocks
    numbered from 0 on by age; which ordinary entries of earlier blocks, which ones of its own block, and which
    landmarks of earlier blocks that have entries, a query sees, (B, H, n, N)."""

    own: Tensor
    current: Tensor
    number: Tensor
    inside: Tensor
    here: Tensor
    pointing: Tensor


def two_stages(scores: Tensor, parts: Parts, pointing: Tensor) -> Tensor:
    """The weights (B, H, n, N) where of all landmarks only those are asked that are `pointing`."""
    number, inside = parts.number, parts.inside
    low = torch.finfo(scores.dtype).min
    high = scores.new_full(scores.shape, low).scatter_reduce(
        -1, number, scores.detach().masked_fill(~inside, low), "amax"
    )
    shifted = (scores - high.gather(-1, number)).masked_fill(~inside, -torch.inf)
    powers = shifted.exp()
    total = torch.zeros_like(scores).scatter_add(-1, number, powers).gather(-1, number)
    within = powers / torch.where(inside, total, 1)
    first = masked_softmax(scores, pointing | parts.here)
    of_block = torch.zeros_like(scores).scatter_add(-1, number, first.masked_fill(~pointing, 0))
    return torch.where(inside, within * of_block.gather(-1, number), first.masked_fill(pointing, 0))


def sum_where(index: Tensor, scores: list[Tensor]) -> Tensor:
    """scores[index] for each place; 0 where index is beyond them."""
    out = torch.zeros_like(scores[0])
    for i, x in enumerate(scores):
        out = torch.where(index == i, x, out)
    return out


def numbered_groups(group: Tensor) -> Tensor:
    """group (..., N) whole numbers -> (..., N): equal ones get an equal number in [0, N), in ascending order."""
    order = group.argsort(-1)
    ordered = group.gather(-1, order)
    new = (ordered != ordered.roll(1, -1)).long()
    new[..., 0] = 0
    return torch.zeros_like(order).scatter(-1, order, new.cumsum(-1))
