"""Keep the entries whose keys differ from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.memory.retain.base import Policy, check_policy, in_steps


@dataclass(frozen=True)
class KeyDifference(Policy):
    """KeyDiff (arXiv 2504.15364): worth = -cos(k_i, mean_j k_j / |k_j|), the mean over all entries that are there, the
    newest included, cosines to 1/4096. Keys as they are stored, turned to their rotary positions. It never looks at a
    weight."""

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 1

    def __post_init__(self) -> None:
        check_policy(self)

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
        filled = (position >= 0).to(keys.dtype)
        length = keys.norm(dim=-1).clamp(min=1e-12)
        mean = ((filled / length)[..., None, :] @ keys)[..., 0, :]  # only its direction matters
        return -in_steps((keys @ F.normalize(mean, dim=-1)[..., None])[..., 0] / length)
