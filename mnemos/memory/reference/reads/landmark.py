"""Blocks that are found by their landmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Landmark
from mnemos.memory.reference.reads.base import scored
from mnemos.memory.reference.turning import turned


def landmark(
    rule: Landmark, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Block by block, each a list of entries."""
    scores, now, size = scored(rule, q, keys), int(controls["position"]), rule.block + 1

    def told_from(j: int, back: int) -> Tensor:
        """The score as if entry j's block were `back` blocks before the query's own."""
        block = (now - int(lag[j])) // size
        asking = turned(q, (back - now // size) * size, rule.rotary)
        return scored(rule, asking, turned(keys[j], -block * size, rule.rotary)[None])[0]

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
        told = {b: told_from(landmarks[b], min(current - b, rule.top + 1)) for b in open_to}
    if rule.top is not None:
        open_to = sorted(open_to, key=lambda b: (-round(float(told[b].detach()), 6), -b))[: rule.top]
    if rule.positions == "stingy":
        moved = list(scores)
        for back, b in enumerate(sorted(open_to, reverse=True), 1):
            for j in [*blocks[b], landmarks[b]]:
                moved[j] = told_from(j, back)
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
