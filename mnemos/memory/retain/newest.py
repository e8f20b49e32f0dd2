"""Keep the newest entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.retain.base import Policy, check_policy


@dataclass(frozen=True)
class Newest(Policy):
    """An entry is worth its position: with sinks, what StreamingLLM keeps (arXiv 2309.17453). `Window` keeps the same
    in a ring, faster; this is the policy where one is asked for, and cuts every `period` tokens only."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 1

    def __post_init__(self) -> None:
        check_policy(self)

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        return position.double()
