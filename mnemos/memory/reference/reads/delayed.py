"""Queries that have waited."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Delayed
from mnemos.memory.reference.reads.base import scored
from mnemos.memory.reference.turning import turned


def delayed(
    rule: Delayed, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """From the best `top` entries, of equal ones the newest."""
    scores = scored(rule, turned(q, -rule.delay, rule.rotary), keys)
    best = sorted(range(len(scores)), key=lambda j: (-round(float(scores[j].detach()), 6), int(lag[j])))[: rule.top]
    weights = [torch.zeros_like(scores[0]) for _ in range(len(scores))]
    for j, weight in zip(best, torch.softmax(scores[best], 0), strict=True):
        weights[j] = controls["asks"] * weight
    stacked = torch.stack(weights)
    return stacked @ values, stacked
