"""The literal form of core contexts: for every query the cores and the entries that it reads, from plain lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.core_context import CoreContext
from mnemos.memory.reference.turning import turned
from mnemos.state import State

Entries = dict[int, tuple[Tensor, Tensor]]
"""Key and value by position."""


class Kept(NamedTuple):
    """Of one head of one row: entries as they came; cores by the position of their last token, turned to it."""

    recent: Entries
    cores: Entries


def pool(
    memory: CoreContext, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row, head by head, token by token."""
    batch, time, heads, _ = q.shape
    group = heads // k.shape[2]
    recent, cores = state.child("recent"), state.child("cores")
    rows: list[list[Kept]] = []
    ends, outputs = [], []
    for b in range(batch):
        count, number = int(recent["count"][b]), time if lengths is None else int(lengths[b])
        rows.append([Kept(_entries(recent, b, h), _entries(cores, b, h)) for h in range(k.shape[2])])
        ends.append(count + number)
        answers: list[list[Tensor]] = [[] for _ in range(heads)]
        for h, kept in enumerate(rows[b]):
            for t in range(number):
                kept.recent[count + t] = (k[b, t, h], v[b, t, h])
                if (count + t + 1) % memory.group == 0:
                    kept.cores[count + t] = _core(memory, kept.recent, controls["query"][b, t, h], count + t)
                for head in range(h * group, (h + 1) * group):
                    answers[head].append(_answer(memory, kept, q[b, t, head], count + t))
        missing = [v.new_zeros(v.shape[3])] * (time - number)
        outputs.append(torch.stack([torch.stack([*of_head, *missing]) for of_head in answers], 1))
    if not outputs:
        return v.new_zeros(0, time, heads, v.shape[3]), state
    size = memory.window + memory.group
    last = [
        [{p: x for p, x in kept.recent.items() if p >= end - size} for kept in row]
        for row, end in zip(rows, ends, strict=True)
    ]
    made = [[kept.cores for kept in row] for row in rows]
    most = max(len(row[0]) for row in made)
    after = state.successor(
        recent=recent.successor(
            **_stored(last, lambda p: p % size, size, k, v), count=torch.tensor(ends, device=k.device)
        ),
        cores=cores.successor(**_stored(made, lambda p: p // memory.group, most, k, v)),
    )
    return torch.stack(outputs), after


def _core(memory: CoreContext, recent: Entries, query: Tensor, now: int) -> tuple[Tensor, Tensor]:
    members = [recent[p] for p in range(now + 1 - memory.group, now + 1)]
    share = torch.softmax(_scale(memory, query) * torch.stack([query @ key for key, _ in members]), 0)
    key = torch.stack([p * x for p, (x, _) in zip(share, members, strict=True)]).sum(0)
    value = torch.stack([p * x for p, (_, x) in zip(share, members, strict=True)]).sum(0)
    return turned(key, now, memory.rotary), value


def _answer(memory: CoreContext, kept: Kept, query: Tensor, now: int) -> Tensor:
    number = max(0, (now - memory.window) // memory.group)
    read = [kept.cores[(c + 1) * memory.group - 1] for c in range(number)]
    for p in range(number * memory.group, now + 1):
        key, value = kept.recent[p]
        read.append((turned(key, p, memory.rotary), value))
    asked = turned(query, now, memory.rotary)
    weights = torch.softmax(_scale(memory, query) * torch.stack([asked @ key for key, _ in read]), 0)
    return torch.stack([p * value for p, (_, value) in zip(weights, read, strict=True)]).sum(0)


def _scale(memory: CoreContext, query: Tensor) -> float:
    return 1 / math.sqrt(len(query)) if memory.scale is None else memory.scale


def _entries(part: State, row: int, head: int) -> Entries:
    places = {slot - 1: place for place, slot in enumerate(part["slot"][row].tolist()) if slot}
    return {p: (part["keys"][row, i, head].double(), part["values"][row, i, head].double()) for p, i in places.items()}


def _stored(
    rows: list[list[Entries]], place_of: Callable[[int], int], places: int, k: Tensor, v: Tensor
) -> dict[str, Tensor]:
    """Tensors of so many places with every entry at its own."""
    keys, values = k.new_zeros(len(rows), places, *k.shape[2:]), v.new_zeros(len(rows), places, *v.shape[2:])
    slot = torch.zeros(len(rows), places, dtype=torch.int64, device=k.device)
    for b, row in enumerate(rows):
        for h, entries in enumerate(row):
            for p, (key, value) in entries.items():
                keys[b, place_of(p), h], values[b, place_of(p), h], slot[b, place_of(p)] = key, value, p + 1
    return {"keys": keys, "values": values, "slot": slot}
