"""Keep what has been looked at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retain.base import Policy, check_policy


@dataclass(frozen=True)
class HeavyHitters(Policy):
    """H2O (arXiv 2306.14048): an entry is worth the sum of all softmax weights it ever got.

    decay: by which that sum is multiplied at every token, 1 for the paper's plain sum; with 0 it is the weight of the
    last read alone (TOVA, arXiv 2401.06104). Old entries have had more time to add up: `recent` protects the newest.
    """

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32
    decay: float = 1.0
    statistics = ("sum",)

    def __post_init__(self) -> None:
        check_policy(self)
        expect(0 <= self.decay <= 1, f"HeavyHitters(decay=) must lie in [0, 1]; got {self.decay}.")

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        return {"sum": self.decay * statistics["sum"] + weights}

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        number = weights.shape[2]
        ages = torch.arange(number, -1, -1, device=weights.device)
        shares = torch.as_tensor(self.decay, dtype=weights.dtype, device=weights.device) ** ages
        return {"sum": shares[0] * statistics["sum"] + shares[1:] @ weights}

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        return statistics["sum"]
