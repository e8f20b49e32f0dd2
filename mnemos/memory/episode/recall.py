"""How many episodes a query reads, and which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.episode.rounding import DECIMALS


@dataclass(frozen=True)
class Recall(Declaration):
    """The best matching episodes, and neighbours in time of those that were found lately (EM-LLM's similarity and
    contiguity buffers, arXiv 2407.09450).

    similar: how much is read of the best matches. unit: "episodes": that many of them; "tokens": the best ones up to
    the one with which their tokens come closest to `similar`, at least one.
    contiguous: how much is read beside, in the same unit and never more than that: the finished episodes before and
    after each one that was found by similarity are queued at that token, and those queued last are read, the newer
    first where they were queued at the same token, until the next one would not fit. Of equal matches (to six decimals)
    the older is the better.
    """

    similar: int = 8
    contiguous: int = 0
    unit: Literal["episodes", "tokens"] = "episodes"

    def __post_init__(self) -> None:
        expect(self.similar >= 1, f"Recall(similar=) is at least 1; got {self.similar}.")
        expect(self.contiguous >= 0, f"Recall(contiguous=) is at least 0; got {self.contiguous}.")
        expect(self.unit in ("episodes", "tokens"), f'Recall(unit=) is "episodes" or "tokens"; got {self.unit!r}.')

    def choose(self, match: Tensor, readable: Tensor, size: Tensor) -> Tensor:
        """Which episodes queries find, (B, n, E) bool, by match (B, n, E) among the readable (B, n, E); size (B, E)."""
        match = match.detach().round(decimals=DECIMALS)
        order = match.masked_fill(~readable, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        there = readable.gather(-1, order)
        if self.unit == "episodes":
            taken = torch.arange(match.shape[-1], device=match.device) < self.similar
        else:
            total = torch.where(there, size[:, None].expand_as(order).gather(-1, order), 0).cumsum(-1)
            off = torch.where(there, (total - self.similar).abs(), torch.iinfo(torch.int64).max)
            taken = torch.arange(match.shape[-1], device=match.device) <= off.argmin(-1, keepdim=True)
        return torch.zeros_like(readable).scatter(-1, order, taken & there)

    def queue(self, found: Tensor, finished: Tensor, position: Tensor, queued: Tensor) -> Tensor:
        """When each episode was last queued, (B, n, E): position + 1, or 0 for never. found (B, n, E) by the queries at
        `position` (B, n); finished (B, n, E): those that may be queued; queued (B, E) before them."""
        beside = torch.zeros_like(found)
        beside[..., 1:] |= found[..., :-1]
        beside[..., :-1] |= found[..., 1:]
        stamp = torch.where(beside & finished, position[..., None] + 1, 0)
        return torch.maximum(stamp.cummax(1).values, queued[:, None])

    def neighbours(self, queued: Tensor, found: Tensor, readable: Tensor, size: Tensor) -> Tensor:
        """Which of the queued (B, n, E) are read beside those found, (B, n, E) bool."""
        number = queued.shape[-1]
        waiting = (queued > 0) & readable & ~found
        key = torch.where(waiting, queued * number + torch.arange(number, device=queued.device), -1)
        order = key.argsort(dim=-1, descending=True)
        there = waiting.gather(-1, order)
        cost = size[:, None].expand_as(order).gather(-1, order) if self.unit == "tokens" else torch.ones_like(order)
        taken = torch.where(there, cost, 0).cumsum(-1) <= self.contiguous
        return torch.zeros_like(found).scatter(-1, order, taken & there)
