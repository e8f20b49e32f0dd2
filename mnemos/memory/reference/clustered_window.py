"""The literal form of clustered windows: for every cluster a list."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.clustered_window import ClusteredWindow
from mnemos.memory.control import Controls
from mnemos.memory.reference.turning import turned
from mnemos.state import State


def route(
    memory: ClusteredWindow, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row, head by head, token by token."""
    batch, time, heads, width = q.shape
    scale = 1 / math.sqrt(width) if memory.scale is None else memory.scale
    held = state.child("entries")
    assigned, last, count = state["assigned"].clone(), state["cluster"].clone(), state["count"].clone()
    found: dict[str, list[list[Tensor]]] = {"keys": [], "values": [], "slot": []}
    outputs = []
    for b in range(batch):
        end = time if lengths is None else int(lengths[b])
        columns = []
        for name in found:
            found[name].append([])
        for h in range(heads):
            keys = list(held["keys"][b, h].double().unbind(0))
            values = list(held["values"][b, h].double().unbind(0))
            slots = held["slot"][b, h].tolist()
            answers = []
            for t in range(end):
                now = int(count[b]) + t
                affinity = controls["affinity"][b, t, h].tolist()
                c = affinity.index(max(affinity))
                place = c * memory.size + int(assigned[b, h, c]) % memory.size
                keys[place], values[place], slots[place] = turned(k[b, t, h], now, memory.rotary), v[b, t, h], now + 1
                assigned[b, h, c] += 1
                last[b, h] = c
                read = [i for i in range(c * memory.size, (c + 1) * memory.size) if slots[i]]
                query = turned(q[b, t, h], now, memory.rotary)
                weights = torch.softmax(scale * torch.stack([query @ keys[i] for i in read]), 0)
                answers.append(weights @ torch.stack([values[i] for i in read]))
            columns.append(torch.stack([*answers, *[v.new_zeros(v.shape[-1])] * (time - end)]) if time else v[b, :, h])
            found["keys"][b].append(torch.stack(keys))
            found["values"][b].append(torch.stack(values))
            found["slot"][b].append(torch.tensor(slots, device=k.device))
        outputs.append(torch.stack(columns, 1))
        count[b] += end
    if not outputs:
        return torch.zeros_like(v), state
    entries = {name: torch.stack([torch.stack(row) for row in rows]) for name, rows in found.items()}
    after = state.successor(entries=held.successor(**entries), assigned=assigned, cluster=last, count=count)
    return torch.stack(outputs), after
