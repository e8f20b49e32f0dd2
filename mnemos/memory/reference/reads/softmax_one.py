"""The softmax with a one more in its denominator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import SoftmaxOne
from mnemos.memory.reference.reads.base import scored


def softmax_one(
    rule: SoftmaxOne, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    scores = scored(rule, q, keys)
    most = max(0.0, float(scores.detach().max()))
    weights = torch.exp(scores - most) / (math.exp(-most) + torch.exp(scores - most).sum())
    return weights @ values, weights
