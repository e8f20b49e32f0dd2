"""The literal form of core contexts: for every query the cores and the entries that it reads, from a plain list."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.core_context import CoreContext
from mnemos.state import State

Entry = tuple[Tensor, Tensor]


def pool(
    memory: CoreContext, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row and head by head."""
    batch, time, heads, width = q.shape
    recent, cores = state.child("recent"), state.child("cores")
    size = memory.window + memory.group
    rows: list[tuple[list[dict[int, Entry]], list[dict[int, Entry]], int]] = []
    outputs = []
    for b in range(batch):
        count = int(recent["count"][b])
        end = count + (time if lengths is None else int(lengths[b]))
        singles: list[dict[int, Entry]] = []
        averages: list[dict[int, Entry]] = []
        answers = []
        for h in range(heads):
            held: list[tuple[dict[int, Entry], int]] = []
            for part in (recent, cores):
                known = {s - 1: place for place, s in enumerate(part["slot"][b].tolist()) if s}
                found = {
                    p: (part["keys"][b, i, h].double(), part["values"][b, i, h].double()) for p, i in known.items()
                }
                held.append((found, 0))
            entries, made = held[0][0], held[1][0]  # by position; cores by that of their last token, turned already
            answers.append([])
            for now in range(count, end):
                t = now - count
                entries[now] = (k[b, t, h], v[b, t, h])
                if (now + 1) % memory.group == 0:
                    members = [entries[p] for p in range(now + 1 - memory.group, now + 1)]
                    scores = [_scale(memory, width) * (controls["query"][b, t, h] @ key) for key, _ in members]
                    share = torch.softmax(torch.stack(scores), 0)
                    key = sum((p * x for p, (x, _) in zip(share, members, strict=True)), torch.zeros_like(k[b, t, h]))
                    value = sum((p * x for p, (_, x) in zip(share, members, strict=True)), torch.zeros_like(v[b, t, h]))
                    made[now] = (_turned(memory, key, now), value)
                number = max(0, (now - memory.window) // memory.group)
                read = [made[(c + 1) * memory.group - 1] for c in range(number)]
                read += [
                    (_turned(memory, entries[p][0], p), entries[p][1]) for p in range(number * memory.group, now + 1)
                ]
                query = _turned(memory, q[b, t, h], now)
                weights = torch.softmax(torch.stack([_scale(memory, width) * (query @ x) for x, _ in read]), 0)
                answers[h].append((weights[:, None] * torch.stack([x for _, x in read])).sum(0))
            singles.append({p: x for p, x in entries.items() if p >= end - size})
            averages.append(made)
        of_heads = [torch.stack(a) if a else v.new_zeros(0, v.shape[-1]) for a in answers]
        row = torch.stack(of_heads, 1)
        outputs.append(torch.cat([row, v.new_zeros(time - len(row), *row.shape[1:])]))
        rows.append((singles, averages, end))
    out = torch.stack(outputs) if outputs else torch.zeros_like(v)
    return out, _stored(memory, state, k, v, rows) if rows else state


def _scale(memory: CoreContext, width: int) -> float:
    return 1 / math.sqrt(width) if memory.scale is None else memory.scale


def _turned(memory: CoreContext, x: Tensor, position: int) -> Tensor:
    """x (K,) rotated to a position, by complex multiplication."""
    if memory.rotary is None:
        return x
    half = len(x) // 2
    angle = position * memory.rotary ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def _stored(
    memory: CoreContext,
    state: State,
    k: Tensor,
    v: Tensor,
    rows: list[tuple[list[dict[int, Entry]], list[dict[int, Entry]], int]],
) -> State:
    size = memory.window + memory.group
    most = max(len(averages[0]) for _, averages, _ in rows)
    after: dict[str, Tensor | State] = {}
    for name, which, places in (("recent", 0, size), ("cores", 1, most)):
        tensors: dict[str, Tensor | State] = {}
        place_of = {"recent": lambda p: p % size, "cores": lambda p: p // memory.group}[name]
        for j, (kind, empty) in enumerate((("keys", k.new_zeros(k.shape[3])), ("values", v.new_zeros(v.shape[3])))):
            whole = []
            for row in rows:
                heads = []
                for entries in row[which]:
                    at = {place_of(p): x[j] for p, x in entries.items()}
                    heads.append(torch.stack([at.get(i, empty) for i in range(places)]) if places else empty[None][:0])
                whole.append(torch.stack(heads, 1))
            tensors[kind] = torch.stack(whole)
        slot = torch.zeros(len(rows), places, dtype=torch.int64, device=k.device)
        for b, row in enumerate(rows):
            for p in row[which][0]:
                slot[b, place_of(p)] = p + 1
        tensors["slot"] = slot
        if name == "recent":
            tensors["count"] = torch.tensor([end for _, _, end in rows], device=k.device)
        after[name] = state.child(name).successor(**tensors)
    return state.successor(**after)
