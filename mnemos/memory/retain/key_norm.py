"""Keep the entries with short keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.memory.retain.base import Policy, check_policy, in_steps


@dataclass(frozen=True)
class KeyNorm(Policy):
    """worth = -|k| (arXiv 2406.11430): in trained language models the keys that are attended to most are short. It
    never looks at a weight. Lengths are compared by their log2, to 1/4096."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32

    def __post_init__(self) -> None:
        check_policy(self)

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        length = keys.to(torch.promote_types(keys.dtype, torch.float32)).norm(dim=-1)
        return -in_steps(length.clamp(min=1e-30).log2())
