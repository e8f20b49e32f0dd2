"""The literal form of memories that keep."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.keeping import KVMemory
from mnemos.memory.reference.evicting import POLICIES, Notes, looked_at, survivors
from mnemos.memory.reference.masking import MASKS
from mnemos.memory.reference.reads import READS
from mnemos.memory.retain import ByPosition, Policy, Window
from mnemos.state import State


@dataclass
class Kept:
    """What one head of one row keeps, by position: keys without rotation, values, and a policy's notes."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    notes: dict[int, Notes] = field(default_factory=dict)


def keep(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Key-value memories: for every head the kept entries as a list."""
    batch, time, heads, _ = q.shape
    group = heads // k.shape[2]
    width, stored = v.shape[-1], [c.name for c in memory.write_controls]
    v = torch.cat([v, *(controls[name].view(*v.shape[:3], -1) for name in stored)], -1)
    rows = []
    answers: list[list[list[Tensor]]] = []
    for b in range(batch):
        row = [_entries(memory, state, b, h) for h in range(k.shape[2])]
        count = int(state["count"][b])
        answers.append([])
        for t in range(time if lengths is None else int(lengths[b])):
            now = count + t
            answers[b].append([])
            for h, kept in enumerate(row):
                _write(memory, kept, k[b, t, h], v[b, t, h], now)
                weights: dict[int, list[Tensor]] = {}
                for head in range(h * group, (h + 1) * group):
                    asked = {name: value[b, t, head] for name, value in controls.items() if name not in stored}
                    out, given = _answer(memory, q[b, t, head], kept, now, asked)
                    answers[b][t].append(out)
                    for position, weight in given.items():
                        weights.setdefault(position, []).append(weight.detach())
                if isinstance(memory.retain, Policy):
                    kept.notes = looked_at(memory.retain, kept.notes, weights, now)
        rows.append((row, count + len(answers[b])))
    outputs = [
        torch.stack([torch.stack(token) for token in row] + [v.new_zeros(heads, width)] * (time - len(row)))
        if time
        else v.new_zeros(0, heads, width)
        for row in answers
    ]
    out = torch.stack(outputs) if outputs else v.new_zeros(0, time, heads, width)
    return out, _stored(memory, state, k, v, rows) if rows else state


def _write(memory: KVMemory, kept: Kept, key: Tensor, value: Tensor, now: int) -> None:
    retain = memory.retain
    kept.keys[now], kept.values[now] = key, value
    if isinstance(retain, Policy):
        kept.notes[now] = POLICIES[type(retain)].start(retain, now)
        turned = {p: _turned(memory, stored.detach(), p) for p, stored in kept.keys.items()}
        left = survivors(retain, kept.notes, turned, now)
    else:
        assert isinstance(retain, ByPosition)
        left = list(retain.kept(now + 1))
    kept.keys = {p: kept.keys[p] for p in left}
    kept.values = {p: kept.values[p] for p in left}
    kept.notes = {p: kept.notes[p] for p in left if p in kept.notes}


def _answer(memory: KVMemory, q: Tensor, kept: Kept, now: int, controls: Controls) -> tuple[Tensor, dict[int, Tensor]]:
    """What one head answers to q (K,), and the weights by position."""
    rule = memory.read_rule
    number = {p: i if rule.positions == "kept" else p for i, p in enumerate(sorted(kept.keys))}
    looked = number if rule.mask is None else [p for p in number if p in MASKS[type(rule.mask)](rule.mask, now)]
    if not looked:
        nothing = torch.zeros_like(next(iter(kept.values.values())))
        return nothing[: len(nothing) - sum(c.count or 1 for c in memory.write_controls)], {}
    keys = torch.stack([_turned(memory, kept.keys[p], number[p]) for p in looked])
    values = torch.stack([kept.values[p] for p in looked])
    lag = torch.tensor([now - p for p in looked], device=q.device)
    if rule.numbered:
        controls = {**controls, "position": torch.tensor(now)}
    out, weights = READS[type(rule)](rule, _turned(memory, q, number[now]), keys, values, lag, controls)
    return out, dict(zip(looked, weights, strict=True))


def _turned(memory: KVMemory, x: Tensor, position: int) -> Tensor:
    """x (K,) rotated to a position, by complex multiplication."""
    if memory.read_rule.rotary is None:
        return x
    half = len(x) // 2
    angle = position * memory.read_rule.rotary ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def _entries(memory: KVMemory, state: State, row: int, head: int) -> Kept:
    kept, own_places = Kept(), state["slot"].ndim == 3
    slot = (state["slot"][row, head] if own_places else state["slot"][row]).tolist()
    for position, place in sorted((s - 1, place) for place, s in enumerate(slot) if s > 0):
        where = (row, head, place) if own_places else (row, place, head)
        kept.keys[position] = _turned(memory, state["keys"][where].double(), -position)
        kept.values[position] = state["values"][where].double()
        if isinstance(memory.retain, Policy):
            kept.notes[position] = {n: float(state[f"statistic.{n}"].detach()[where]) for n in memory.retain.statistics}
    return kept


def _stored(memory: KVMemory, state: State, k: Tensor, v: Tensor, rows: list[tuple[list[Kept], int]]) -> State:
    """The state that holds these entries. Where each is stored means nothing in a table; in a ring it does."""
    retain = memory.retain
    if isinstance(retain, Policy):
        places = retain.capacity + 1
    else:
        places = retain.capacity or max((len(row[0].keys) for row, _ in rows), default=0)
    no_key, no_value = k.new_zeros(k.shape[3]), v.new_zeros(v.shape[3])
    found: dict[str, list[list[list[Tensor]]]] = {"keys": [], "values": [], "slot": []}
    found |= {name: [] for name in state.entries if name.startswith("statistic.")}
    for row, _ in rows:
        for name in found:
            found[name].append([])
        for kept in row:
            at: dict[int, int] = {}
            for i, position in enumerate(sorted(kept.keys)):
                place = i
                if isinstance(retain, Window):
                    ring = retain.sinks + (position - retain.sinks) % retain.size
                    place = position if position < retain.sinks else ring
                at[place] = position
            filled = [at.get(i) for i in range(places)]
            found["keys"][-1].append([no_key if p is None else _turned(memory, kept.keys[p], p) for p in filled])
            found["values"][-1].append([no_value if p is None else kept.values[p] for p in filled])
            found["slot"][-1].append([torch.tensor(0 if p is None else p + 1, device=k.device) for p in filled])
            for name in found:
                if name.startswith("statistic."):
                    note = name.removeprefix("statistic.")
                    numbers = [0.0 if p is None else kept.notes[p][note] for p in filled]
                    found[name][-1].append([torch.tensor(x, dtype=torch.float64, device=k.device) for x in numbers])
    entries: dict[str, Tensor | State] = {}
    for name, value in found.items():
        size = {"keys": k.shape[3:], "values": v.shape[3:]}.get(name, ())
        flat = [x for of_row in value for of_head in of_row for x in of_head]
        whole = torch.stack(flat) if flat else state[name].new_zeros(0)
        entries[name] = whole.view(len(rows), k.shape[2], places, *size)
    if not isinstance(retain, Policy):  # the same places for all heads
        entries = {name: x.transpose(1, 2) for name, x in entries.items() if isinstance(x, Tensor)}
        slot = entries["slot"]
        assert isinstance(slot, Tensor)
        entries["slot"] = slot[:, :, 0]
    count = torch.tensor([count for _, count in rows], device=k.device)
    return state.successor(**entries, count=count)
