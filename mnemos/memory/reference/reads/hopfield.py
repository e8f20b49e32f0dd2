"""A Hopfield network's updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Hopfield
from mnemos.memory.reference.reads.base import scored


def hopfield(
    rule: Hopfield, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(scored(rule, q, keys), 0)
    for _ in range(rule.steps):
        before, state = weights, (weights[:, None] * keys).sum(0)
        weights = torch.softmax(scored(rule, state, keys), 0)
        if math.dist(weights.tolist(), before.tolist()) <= rule.eps:
            break
    return weights @ values, weights
