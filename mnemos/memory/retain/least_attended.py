"""Drop what has not been attended to for longest, or least often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retain.base import Policy, check_policy, latest


@dataclass(frozen=True)
class LeastRecentlyAttended(Policy):
    """LRA (Attendre, arXiv 2401.04881): an entry is worth the token at which it was last attended to, with a weight
    above `threshold`; its own token before that. Of equals the older goes, so entries that every token attends to stay
    where the budget has two places more than there are of them. With a threshold of 1 or more nothing ever is, and
    what stays is a window of the last `budget` entries beside the sinks."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 1
    threshold: float = 1e-2
    statistics = ("last",)
    group = "max"

    def __post_init__(self) -> None:
        check_policy(self)
        check_threshold(self)

    def start(self, now: Tensor) -> Mapping[str, Tensor]:
        return {"last": now}

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        last = statistics["last"]
        return {"last": torch.where(weights > self.threshold, now.to(last.dtype), last)}

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        return {"last": latest(weights > self.threshold, statistics["last"], now)[:, :, -1]}

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        return statistics["last"]


@dataclass(frozen=True)
class LeastFrequentlyAttended(Policy):
    """LFA (Attendre, arXiv 2401.04881): an entry is worth the number of tokens that attended to it, with a weight above
    `threshold`. Old entries have had more time to be: `recent` protects the newest."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32
    threshold: float = 1e-2
    statistics = ("times",)
    group = "max"

    def __post_init__(self) -> None:
        check_policy(self)
        check_threshold(self)

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        return {"times": statistics["times"] + (weights > self.threshold)}

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        return {"times": statistics["times"] + (weights > self.threshold).sum(2)}

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        return statistics["times"]


def check_threshold(policy: LeastRecentlyAttended | LeastFrequentlyAttended) -> None:
    name = type(policy).__name__
    expect(policy.threshold >= 0, f"{name}(threshold=) is a weight, at least 0; got {policy.threshold}.")
