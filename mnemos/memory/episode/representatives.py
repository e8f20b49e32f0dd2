"""An episode's summary: the keys that were looked at most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.episode.rounding import DECIMALS
from mnemos.memory.episode.summary import Summary


@dataclass(frozen=True)
class Representatives(Summary):
    """The mean key of the `number` tokens that received most attention while they were in the local window (InfLLM,
    arXiv 2402.04617; EM-LLM, arXiv 2407.09450): the sum over queries and heads of their weights in a softmax over the
    window alone. Of equals (to six decimals) the older; where an episode has fewer tokens, all of them.
    """

    number: int = 4
    watches = True

    def __post_init__(self) -> None:
        expect(self.number >= 1, f"Representatives(number=) is at least 1; got {self.number}.")

    def weights(self, episode: Tensor, size: Tensor, slot: Tensor, received: Tensor | None) -> Tensor:
        assert received is not None
        # Places ordered by episode, then by what they received, then by age.
        order = slot.argsort(dim=1, stable=True)
        order = order.gather(
            1, received.round(decimals=DECIMALS).gather(1, order).argsort(dim=1, descending=True, stable=True)
        )
        order = order.gather(1, episode.gather(1, order).argsort(dim=1, stable=True))
        sorted_episode = episode.gather(1, order)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        new = torch.ones_like(sorted_episode, dtype=torch.bool)
        new[:, 1:] = sorted_episode[:, 1:] != sorted_episode[:, :-1]
        rank = place - torch.where(new, place, 0).cummax(1).values
        chosen = torch.zeros_like(new).scatter(1, order, rank < self.number)
        return chosen / size.clamp(min=1, max=self.number)
