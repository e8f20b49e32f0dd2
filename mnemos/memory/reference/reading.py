"""The literal form of read rules and masks: one query, its entries as plain rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.mask import Dilated, GridNeighborhood, Neighborhood, PowersOfTwo
from mnemos.memory.read import (
    AdaptiveFilter,
    CircleIntersection,
    Delayed,
    DenseAssociative,
    DynamicMask,
    Hopfield,
    Hops,
    Landmark,
    LocalLinear,
    MLPScores,
    Read,
    Relative,
    Softmax,
    SoftmaxOne,
)
from mnemos.memory.reference.turning import turned

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


def _delayed(
    rule: Delayed, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    scores = _scores(rule, turned(q, -rule.delay, rule.rotary), keys)
    best = sorted(range(len(scores)), key=lambda j: (-round(float(scores[j].detach()), 6), int(lag[j])))[: rule.top]
    weights = [torch.zeros_like(scores[0]) for _ in range(len(scores))]
    for j, weight in zip(best, torch.softmax(scores[best], 0), strict=True):
        weights[j] = controls["asks"] * weight
    stacked = torch.stack(weights)
    return stacked @ values, stacked


def _landmark(
    rule: Landmark, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Block by block, each a list of entries."""
    scores, now, size = _scores(rule, q, keys), int(controls["position"]), rule.block + 1

    def scored(j: int, back: int) -> Tensor:
        """As if entry j's block were `back` blocks before the query's own."""
        block = (now - int(lag[j])) // size
        return _scores(
            rule,
            turned(q, (back - now // size) * size, rule.rotary),
            turned(keys[j], -block * size, rule.rotary)[None],
        )[0]

    blocks: dict[int, list[int]] = {}
    landmarks: dict[int, int] = {}
    for j, distance in enumerate(lag.tolist()):
        block, place = divmod(now - distance, rule.block + 1)
        if place == rule.block:
            landmarks[block] = j
        else:
            blocks.setdefault(block, []).append(j)
    current = now // (rule.block + 1)
    open_to = [b for b in landmarks if b in blocks and b != current]
    told = {b: scores[landmarks[b]] for b in open_to}
    if rule.positions == "stingy":
        assert rule.top is not None
        told = {b: scored(landmarks[b], min(current - b, rule.top + 1)) for b in open_to}
    if rule.top is not None:
        open_to = sorted(open_to, key=lambda b: (-round(float(told[b].detach()), 6), -b))[: rule.top]
    if rule.positions == "stingy":
        moved = list(scores)
        for back, b in enumerate(sorted(open_to, reverse=True), 1):
            for j in [*blocks[b], landmarks[b]]:
                moved[j] = scored(j, back)
        scores = torch.stack(moved)
    local = blocks.get(current, [])
    weights = [torch.zeros_like(scores[0]) for _ in range(len(scores))]
    first = torch.softmax(scores[local + [landmarks[b] for b in open_to]], 0)
    for i, j in enumerate(local):
        weights[j] = first[i]
    for i, b in enumerate(open_to):
        for j, within in zip(blocks[b], torch.softmax(scores[blocks[b]], 0), strict=True):
            weights[j] = within * first[len(local) + i]
    stacked = torch.stack(weights)
    return stacked @ values, stacked


def _dynamic_mask(
    rule: DynamicMask, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    scores, preference = _scores(rule, q, keys) + values[:, -1], values[:, -1].tolist()
    chosen = sorted(range(len(scores)), key=lambda j: (-preference[j], int(lag[j])))[: rule.keep]
    powers = [torch.exp(s - scores.max()) if j in chosen else torch.zeros_like(s) for j, s in enumerate(scores)]
    weights = torch.stack(powers) / torch.stack(powers).sum()
    return weights @ values[:, :-1], weights


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


def _hops(
    rule: Hops, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    u, looked = q, torch.zeros_like(keys[:, 0])
    for _ in range(rule.hops):
        found, weights = READS[type(rule.read)](rule.read, u, keys, values, lag, controls)
        u, looked = torch.diag(controls["carry"]) @ u + found, looked + weights / rule.hops
    return u, looked


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
    AdaptiveFilter: _adaptive_filter,
    CircleIntersection: _circle_intersection,
    Delayed: _delayed,
    DenseAssociative: _dense_associative,
    DynamicMask: _dynamic_mask,
    Hopfield: _hopfield,
    Hops: _hops,
    Landmark: _landmark,
    LocalLinear: _local_linear,
    MLPScores: _mlp_scores,
    Relative: _relative,
    Softmax: _softmax,
    SoftmaxOne: _softmax_one,
}


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


def _neighbours(place: int, length: int, window: int) -> range:
    """The window around a place of a line, shifted inwards at its ends."""
    start = min(max(place - window // 2, 0), length - window)
    return range(start, start + window)


def _neighborhood(mask: Neighborhood, t: int) -> set[int]:
    place, residue = divmod(t, mask.dilation)
    end_of_group = (place // mask.stride + 1) * mask.stride
    return {i * mask.dilation + residue for i in range(max(end_of_group - mask.window, 0), place + 1)}


def _grid_neighborhood(mask: GridNeighborhood, t: int) -> set[int]:
    row, column = divmod(t, mask.width)
    place, residue = divmod(column, mask.column_dilation)
    line = range(residue, mask.width, mask.column_dilation)
    columns = [line[i] for i in _neighbours(place, len(line), mask.columns)]
    rows = [row - i * mask.row_dilation for i in range(mask.rows)]
    return {r * mask.width + c for r in rows for c in columns if r >= 0 and r * mask.width + c <= t}


MASKS: dict[type, Callable[[Any, int], set[int]]] = {
    Dilated: _dilated,
    GridNeighborhood: _grid_neighborhood,
    Neighborhood: _neighborhood,
    PowersOfTwo: _powers_of_two,
}
"""(mask, position of the query) -> the positions that it looks at."""
