"""An episode's summary: the mean of its keys."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.episode.summary import Summary


@dataclass(frozen=True)
class MeanKey(Summary):
    """a_j = 1 / size: the mean of all keys."""

    def weights(self, episode: Tensor, size: Tensor, slot: Tensor, received: Tensor | None) -> Tensor:
        return 1 / size.clamp(min=1)
