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
    """H2O (arXiv 2306.14048): an entry is worth the sum of all softmax weights it ever got,

        worth_T = sum_t decay^(T - t) p_t      over all tokens t that have read since it was written

    decay: by which that sum is multiplied at every token, 1 for the paper's plain sum; with 0 it is the weight of the
    last read alone (TOVA, arXiv 2401.06104). Old entries have had more time to add up: `recent` protects the newest.
    mean: divide it by sum_t decay^(T - t), which is the mean of the weights: no entry is worth more for being old.
    """

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32
    decay: float = 1.0
    mean: bool = False

    def __post_init__(self) -> None:
        check_policy(self)
        expect(0 <= self.decay <= 1, f"HeavyHitters(decay=) must lie in [0, 1]; got {self.decay}.")

    @property
    def statistics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("sum", "reads") if self.mean else ("sum",)

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        told = {"sum": self.decay * statistics["sum"] + weights}
        if self.mean:
            told["reads"] = self.decay * statistics["reads"] + 1
        return told

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        number = weights.shape[2]
        ages = torch.arange(number, -1, -1, device=weights.device)
        shares = torch.as_tensor(self.decay, dtype=weights.dtype, device=weights.device) ** ages
        told = {"sum": shares[0] * statistics["sum"] + shares[1:] @ weights}
        if self.mean:
            written = (position[:, :, None] <= now).to(weights.dtype)
            told["reads"] = shares[0] * statistics["reads"] + shares[1:] @ written
        return told

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        total = statistics["sum"]
        return total / statistics["reads"].clamp(min=1) if self.mean else total
