"""The literal form of read rules and masks: one query, its entries as plain rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.mask import Dilated, PowersOfTwo
from mnemos.memory.read import Hops, LocalLinear, Read, Relative, Softmax

Reads = Callable[[Any, Tensor, Tensor, Tensor, Tensor, Controls], tuple[Tensor, Tensor]]
"""(rule, q (K,), keys (N, K), values (N, V), lag (N,), controls of the query) -> answer (V,) and weights (N,). There
is at least one entry."""


def _scores(rule: Read, q: Tensor, keys: Tensor) -> Tensor:
    scale = 1 / math.sqrt(len(q)) if rule.scale is None else rule.scale
    return scale * (keys * q).sum(-1)


def _softmax(
    rule: Softmax, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(_scores(rule, q, keys), 0)
    return weights @ values, weights


def _local_linear(
    rule: LocalLinear, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """The normal equations of v_j = b + W (k_j - q) by b and W at once."""
    weights = torch.softmax(_scores(rule, q, keys), 0)
    rows = torch.cat([torch.ones_like(keys[:, :1]), keys - q], 1)
    ridge = torch.diag(torch.tensor([0.0] + [rule.ridge] * len(q), dtype=q.dtype, device=q.device))
    return torch.linalg.solve(rows.T @ (weights[:, None] * rows) + ridge, rows.T @ (weights[:, None] * values))[
        0
    ], weights


def _relative(
    rule: Relative, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    def bias(distance: int) -> Tensor:
        if distance >= rule.length and rule.beyond == "zero":
            return q.new_zeros(())
        return controls["bias"][min(distance, rule.length - 1)]

    weights = torch.softmax(_scores(rule, q, keys) + torch.stack([bias(i) for i in lag.tolist()]), 0)
    return weights @ values, weights


def _hops(
    rule: Hops, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    u, looked = q, torch.zeros_like(keys[:, 0])
    for _ in range(rule.hops):
        found, weights = READS[type(rule.read)](rule.read, u, keys, values, lag, controls)
        u, looked = torch.diag(controls["carry"]) @ u + found, looked + weights / rule.hops
    return u, looked


READS: dict[type, Reads] = {Hops: _hops, Softmax: _softmax, LocalLinear: _local_linear, Relative: _relative}


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


MASKS: dict[type, Callable[[Any, int], set[int]]] = {Dilated: _dilated, PowersOfTwo: _powers_of_two}
"""(mask, position of the query) -> the positions that it looks at."""
