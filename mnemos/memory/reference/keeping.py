"""The literal form of memories that keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.keeping import KVMemory
from mnemos.memory.read import LocalLinear
from mnemos.memory.retain import Window
from mnemos.state import State


def keep(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Key-value memories: the kept entries as a list."""
    batch, time, heads, _ = q.shape
    group = heads // k.shape[2]
    rows = []
    for b in range(batch):
        entries = _entries(memory, state, b)  # position -> (key without rotation, value)
        count = int(state["count"][b])
        outputs = []
        for t in range(time if lengths is None else int(lengths[b])):
            entries[count] = (k[b, t], v[b, t])
            count += 1
            entries = {p: entries[p] for p in memory.retain.kept(count)}
            keys = torch.stack([key for key, _ in entries.values()])
            values = torch.stack([value for _, value in entries.values()])
            index = torch.arange(len(entries), device=k.device)  # positions are counted within the kept entries
            query = _turned(memory, q[b, t][None], index[-1:])[0]
            keys = _turned(memory, keys, index)
            scale = memory.read_rule.scale or 1 / math.sqrt(k.shape[-1])
            out = [_answer(memory, scale, query[h], keys[:, h // group], values[:, h // group]) for h in range(heads)]
            outputs.append(torch.stack(out))
        outputs += [v.new_zeros(heads, v.shape[-1])] * (time - len(outputs))
        rows.append((torch.stack(outputs) if outputs else v.new_zeros(0, heads, v.shape[-1]), entries, count))
    out = torch.stack([row[0] for row in rows]) if rows else v.new_zeros(0, time, heads, v.shape[-1])
    return out, _stored(memory, state, k, v, [(entries, count) for _, entries, count in rows])


def _answer(memory: KVMemory, scale: float, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The answer of one head to q (K,) from keys (N, K) and values (N, V)."""
    weights = torch.softmax(scale * keys @ q, 0)
    if not isinstance(memory.read_rule, LocalLinear):
        return weights @ values
    # The normal equations of v_j = b + W (k_j - q) by b and W at once.
    rows = torch.cat([torch.ones_like(keys[:, :1]), keys - q], 1)
    ridge = torch.diag(torch.tensor([0.0] + [memory.read_rule.ridge] * len(q), dtype=q.dtype, device=q.device))
    return torch.linalg.solve(rows.T @ (weights[:, None] * rows) + ridge, rows.T @ (weights[:, None] * values))[0]


def _turned(memory: KVMemory, x: Tensor, positions: Tensor) -> Tensor:
    """x (N, H, K) rotated to `positions` (N,), by complex multiplication."""
    if memory.read_rule.rotary is None:
        return x
    half = x.shape[-1] // 2
    frequency = memory.read_rule.rotary ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = positions.double()[:, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def _entries(memory: KVMemory, state: State, row: int) -> dict[int, tuple[Tensor, Tensor]]:
    slot = state["slot"][row].tolist()
    places = sorted((s - 1, place) for place, s in enumerate(slot) if s > 0)
    entries = {}
    for position, place in places:
        key = state["keys"][row, place].double()[None]
        back = torch.tensor([-position], device=key.device)
        entries[position] = (_turned(memory, key, back)[0], state["values"][row, place].double())
    return entries


def _stored(
    memory: KVMemory,
    state: State,
    k: Tensor,
    v: Tensor,
    rows: list[tuple[dict[int, tuple[Tensor, Tensor]], int]],
) -> State:
    window = memory.retain if isinstance(memory.retain, Window) else None
    places = max((len(entries) for entries, _ in rows), default=0) if window is None else window.size + window.sinks
    no_key, no_value = k.new_zeros(k.shape[2], k.shape[3]), v.new_zeros(v.shape[2], v.shape[3])
    keys, values, slots = [], [], []
    for entries, _ in rows:
        at: dict[int, int] = {}
        for i, position in enumerate(entries):
            if window is None:
                at[i] = position
            elif position < window.sinks:
                at[position] = position
            else:
                at[window.sinks + (position - window.sinks) % window.size] = position
        turned = {
            p: _turned(memory, key[None], torch.tensor([p], device=key.device))[0] for p, (key, _) in entries.items()
        }
        keys.append(torch.stack([turned[at[i]] if i in at else no_key for i in range(places)] or [no_key])[:places])
        values.append(
            torch.stack([entries[at[i]][1] if i in at else no_value for i in range(places)] or [no_value])[:places]
        )
        slots.append([at[i] + 1 if i in at else 0 for i in range(places)])
    if not rows:
        return state
    return state.successor(
        keys=torch.stack(keys),
        values=torch.stack(values),
        slot=torch.tensor(slots, dtype=torch.int64, device=k.device).view(len(rows), places),
        count=torch.tensor([count for _, count in rows], device=k.device),
    )
