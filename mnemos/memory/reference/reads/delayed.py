"""Queries that have waited."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Delayed
from mnemos.memory.reference.masking import TWO_SIDED
from mnemos.memory.reference.reads.base import scored
from mnemos.memory.reference.turning import turned


def delayed(
    rule: Delayed, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """From the best `top` entries, of equal ones the newest, among those around the query."""
    waited, newest = int(controls["waited"]), int(controls["position"])
    scores = scored(rule, turned(q, -waited, rule.rotary), keys)
    looked = list(range(len(scores))) if waited >= 0 else []
    if rule.around is not None and waited >= 0:
        near = TWO_SIDED[type(rule.around)](rule.around, newest - waited, newest)
        looked = [j for j in looked if newest - int(lag[j]) in near]
    best = sorted(looked, key=lambda j: (-round(float(scores[j].detach()), 6), int(lag[j])))[: rule.top]
    weights = [torch.zeros_like(scores[0]) for _ in range(len(scores))]
    for j, weight in zip(best, torch.softmax(scores[best], 0), strict=True):
        weights[j] = weight
    stacked = torch.stack(weights)
    return stacked @ values, stacked
