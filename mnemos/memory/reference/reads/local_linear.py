"""The local linear fit."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import LocalLinear
from mnemos.memory.reference.reads.base import scored


def local_linear(
    rule: LocalLinear, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """The normal equations of v_j = b + W (k_j - q) by b and W at once."""
    weights = torch.softmax(scored(rule, q, keys), 0)
    rows = torch.cat([torch.ones_like(keys[:, :1]), keys - q], 1)
    ridge = torch.diag(torch.tensor([0.0] + [rule.ridge] * len(q), dtype=q.dtype, device=q.device))
    return torch.linalg.solve(rows.T @ (weights[:, None] * rows) + ridge, rows.T @ (weights[:, None] * values))[
        0
    ], weights
