"""The literal form of read rules and masks: one query, its entries as plain rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.mask import Dilated, PowersOfTwo
from mnemos.memory.read import AdaptiveFilter, LocalLinear, MLPScores, Read, Relative, Softmax, SoftmaxOne

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


def _softmax_one(
    rule: SoftmaxOne, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    scores = _scores(rule, q, keys)
    most = max(0.0, float(scores.detach().max()))
    weights = torch.exp(scores - most) / (math.exp(-most) + torch.exp(scores - most).sum())
    return weights @ values, weights


def _mlp_scores(
    rule: MLPScores, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    f = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu}[rule.activation]
    matrix = controls["second_weight"].view(rule.hidden, len(q))
    scores = []
    for key in keys:
        first = f(q + key + controls["first_bias"])
        scores.append(controls["third_weight"] @ f(matrix @ first + controls["second_bias"]))
    weights = torch.softmax(torch.stack(scores), 0)
    return weights @ values, weights


def _adaptive_filter(
    rule: AdaptiveFilter, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """The observations carried to now, the density of a Student t distribution, the mean."""
    damping, process, source, anchor, freedom, sharpness = (
        controls[name] for name in ("damping", "process", "source", "anchor", "freedom", "sharpness")
    )
    shrunk = torch.exp(-damping * lag)
    gained = process * (1 - shrunk**2) / (2 * damping) if damping.any() else process * lag
    variance = gained + source * shrunk**2 + anchor
    nu, size = freedom * len(q), len(q)
    surprise = torch.log(1 + ((q - shrunk[:, None] * keys) ** 2).sum(1) / (nu * variance))
    weights = torch.softmax(sharpness * (torch.log(1 / variance) - (nu + size) / size * surprise), 0)
    return weights @ (shrunk[:, None] * values), weights


READS: dict[type, Reads] = {
    Softmax: _softmax,
    SoftmaxOne: _softmax_one,
    LocalLinear: _local_linear,
    Relative: _relative,
    MLPScores: _mlp_scores,
    AdaptiveFilter: _adaptive_filter,
}


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


MASKS: dict[type, Callable[[Any, int], set[int]]] = {Dilated: _dilated, PowersOfTwo: _powers_of_two}
"""(mask, position of the query) -> the positions that it looks at."""
