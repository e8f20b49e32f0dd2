"""The entries that the values prefer."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import DynamicMask
from mnemos.memory.reference.reads.base import scored


def dynamic_mask(
    rule: DynamicMask, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    scores, preference = scored(rule, q, keys) + values[:, -1], values[:, -1].tolist()
    chosen = sorted(range(len(scores)), key=lambda j: (-preference[j], int(lag[j])))[: rule.keep]
    powers = [torch.exp(s - scores.max()) if j in chosen else torch.zeros_like(s) for j, s in enumerate(scores)]
    weights = torch.stack(powers) / torch.stack(powers).sum()
    return weights @ values[:, :-1], weights
