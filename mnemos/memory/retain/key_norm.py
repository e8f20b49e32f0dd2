"""Keep the entries with short keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.retain.base import Policy, check_policy


@dataclass(frozen=True)
class KeyNorm(Policy):
    """worth = -|k| (arXiv 2406.11430): in trained language models the keys that are attended to most are short. It
    never looks at a weight."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32

    def __post_init__(self) -> None:
        check_policy(self)

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        return -keys.norm(dim=-1)
