"""The literal form of read rules and masks: one query, its entries as plain rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.mask import Dilated, PowersOfTwo
from mnemos.memory.read import CircleIntersection, DenseAssociative, Hopfield, LocalLinear, Read, Relative, Softmax

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


def _hopfield(
    rule: Hopfield, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    weights = torch.softmax(_scores(rule, q, keys), 0)
    for _ in range(rule.steps):
        before, state = weights, (weights[:, None] * keys).sum(0)
        weights = torch.softmax(_scores(rule, state, keys), 0)
        if math.dist(weights.tolist(), before.tolist()) <= rule.eps:
            break
    return weights @ values, weights


def _dense_associative(
    rule: DenseAssociative, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Each sign by the two energies it could have."""

    def f(x: Tensor) -> Tensor:
        if rule.form == "exp":
            return torch.exp(x)
        return torch.where((x > 0) | (rule.form == "power"), x, torch.zeros_like(x)) ** rule.power

    keys, values, state = keys.detach(), values.detach(), torch.sign(q.detach())
    for i in [*range(len(q))] * rule.sweeps:
        up, down = state.clone(), state.clone()
        up[i], down[i] = 1, -1
        one, other = f(keys @ up).sum(), f(keys @ down).sum()
        state[i] = state[i] if torch.isclose(one, other, rtol=1e-14, atol=0) else torch.sign(one - other)
    near = keys @ state
    out = torch.sign(f(near[:, None] + values).sum(0) - f(near[:, None] - values).sum(0))
    slope = f(near) if rule.form == "exp" else torch.sqrt(f(near).abs() ** (2 * (rule.power - 1) / rule.power))
    return out, slope / max(float(slope.sum()), 1e-300)


def _circle_intersection(
    rule: CircleIntersection, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """The addresses of both circles, counted by how many bits they change among those that differ and the others."""

    def shared(distance: int) -> float:
        return float(
            sum(
                math.comb(distance, a) * math.comb(rule.bits - distance, c)
                for a in range(distance + 1)
                for c in range(rule.bits - distance + 1)
                if a + c <= rule.radius and distance - a + c <= rule.radius
            )
        )

    found = []
    for key in keys:
        distance = rule.bits * (1 - (q * key).sum() / (q.norm() * key.norm())) / 2
        whole = min(math.floor(float(distance.detach())), rule.bits - 1)
        part = distance - whole
        found.append((1 - part) * shared(whole) + part * shared(whole + 1))
    weights = torch.stack(found)
    weights = weights / weights.sum() if bool(weights.any()) else 0 * weights
    return weights @ values, weights


READS: dict[type, Reads] = {
    CircleIntersection: _circle_intersection,
    DenseAssociative: _dense_associative,
    Softmax: _softmax,
    LocalLinear: _local_linear,
    Relative: _relative,
    Hopfield: _hopfield,
}


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


MASKS: dict[type, Callable[[Any, int], set[int]]] = {Dilated: _dilated, PowersOfTwo: _powers_of_two}
"""(mask, position of the query) -> the positions that it looks at."""
