"""Which tokens begin an episode, for all tokens of a run at once."""

from __future__ import annotations

import torch
from torch import Tensor


def beginnings(proposed: Tensor, shortest: int, longest: int, size: Tensor, before: Tensor) -> Tensor:
    """Which of T tokens begin an episode, (B, T) bool.

    From a beginning at token i the next one is at the first proposal from i + shortest on, and at i + longest at the
    latest. So beginnings are what is reached from the first one by a map of tokens to tokens, and are marked in log T
    rounds, in each of which the map is composed with itself.

    proposed (B, T) bool; size (B,): tokens of the episode that is open, 0 where there is none; before (B,): tokens
    until the first episode begins, where none is open.
    """
    batch, length = proposed.shape
    place = torch.arange(length + 1, device=proposed.device)
    at = torch.where(proposed, place[:-1], length)
    at = torch.cat([at, at.new_full((batch, 1), length)], 1)
    first_from = at.flip(1).cummin(1).values.flip(1)  # the first proposal at or after each place

    def following(start: Tensor) -> Tensor:
        earliest = first_from.gather(1, (start + shortest).clamp(0, length))
        return torch.minimum(earliest, (start + longest).clamp(max=length))

    first = torch.where(size > 0, following(-size[:, None])[:, 0], before.clamp(max=length))
    jump = following(place.expand(batch, -1))
    marked = torch.zeros_like(at).scatter(1, first[:, None], 1)
    for _ in range((length // shortest + 2).bit_length()):
        marked = marked.scatter_reduce(1, jump, marked, "amax")
        jump = jump.gather(1, jump)
    return marked[:, :-1] > 0
