"""Two circles of hard locations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import CircleIntersection


def circle_intersection(
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
