"""Softmax attention."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Softmax
from mnemos.memory.reference.reads.base import scored


def softmax(
    rule: Softmax, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(scored(rule, q, keys), 0)
    return weights @ values, weights
