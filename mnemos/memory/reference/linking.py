"""The literal form of nets of binary links: a set of pairs of units."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.cliques import Cliques
from mnemos.memory.control import Controls
from mnemos.memory.willshaw import Willshaw
from mnemos.state import State

Links = set[tuple[int, int]]
"""(unit of the value, unit of the key)"""


def link_up(
    memory: Willshaw | Cliques,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None,
) -> tuple[Tensor, State]:
    """Row by row and head by head."""
    batch, time, heads, width = q.shape
    out, after = torch.zeros_like(v), state["links"].clone()
    answer = _clique if isinstance(memory, Cliques) else _willshaw
    for b in range(batch):
        for h in range(heads):
            links: Links = {(i, j) for i, j in state["links"][b, h].nonzero().tolist()}
            for t in range(time if lengths is None else int(lengths[b])):
                keys, values = _units(k[b, t, h]), _units(v[b, t, h])
                for i in values:
                    for j in keys:
                        size = width // memory.clusters if isinstance(memory, Cliques) else 1
                        if isinstance(memory, Willshaw) or i // size != j // size:
                            links.add((i, j))
                for i in answer(memory, links, _units(q[b, t, h]), width, v.shape[-1]):  # pyright: ignore
                    out[b, t, h, i] = 1
            for i, j in links:
                after[b, h, i, j] = True
    return out, state.successor(links=after)


def _units(x: Tensor) -> set[int]:
    return {i for i, value in enumerate(x.tolist()) if value > 0}


def _willshaw(memory: Willshaw, links: Links, cue: set[int], width: int, size: int) -> set[int]:
    scores = [sum((i, j) in links for j in cue) for i in range(size)]
    least = len(cue) if memory.winners is None else sorted(scores)[-memory.winners]
    return {i for i, score in enumerate(scores) if score >= max(least, 1)}


def _clique(memory: Cliques, links: Links, cue: set[int], width: int, size: int) -> set[int]:
    each = width // memory.clusters
    clusters = [range(start, start + each) for start in range(0, width, each)]
    active = cue
    for _ in range(memory.steps):
        scores = {
            i: memory.stay * (i in active)
            + sum(any((i, j) in links for j in cluster if j in active) for cluster in clusters)
            for i in range(width)
        }
        active = {
            i for cluster in clusters for i in cluster if scores[i] > 0 and scores[i] == max(scores[j] for j in cluster)
        }
    return active
