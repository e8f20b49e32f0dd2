"""Softmax attention with a bias for each distance."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Relative
from mnemos.memory.reference.reads.base import scored


def relative(
    rule: Relative, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    def bias(distance: int) -> Tensor:
        if distance >= rule.length and rule.beyond == "zero":
            return q.new_zeros(())
        return controls["bias"][min(distance, rule.length - 1)]

    weights = torch.softmax(scored(rule, q, keys) + torch.stack([bias(i) for i in lag.tolist()]), 0)
    return weights @ values, weights
