"""The oracle: what every memory means, written as literally as possible.

Token by token in float64, the inner gradient by autograd, the kept entries as a plain list. Every algorithm in
`mnemos.execute`, and the fast step of each memory, is held against this in outputs, states and gradients. Nothing
here is fast, and nothing here shares code with what it judges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import Chunk
from mnemos.memory.learning import Memory
from mnemos.memory.protocol import AnyMemory, Controls
from mnemos.memory.retain import Window
from mnemos.memory.retention import Decay, Keep
from mnemos.state import State


def run(
    memory: AnyMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """The literal loop. Shapes as in `mn.run`; tokens at or beyond a row's length leave its state alone.

    Outputs come in v's dtype; the state in float64 unless its own tensors are of another kind.
    """
    dtype, q, k, v = v.dtype, q.double(), k.double(), v.double()
    wide_controls = {name: value.double() for name, value in controls.items()}
    if isinstance(memory, Memory):
        outputs, after = _learn(memory, q, k, v, wide_controls, state, lengths)
    elif isinstance(memory, KVMemory):
        outputs, after = _keep(memory, q, k, v, state, lengths)
    else:
        raise NotImplementedError(f"no reference for {type(memory).__name__}")
    return outputs.to(dtype), after


def _learn(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    learner, structure = memory.learner, memory.structure
    names = list(structure.shapes(k.shape[-1], v.shape[-1]))
    weights = {n: state[n].double() for n in names}
    momentum = {n: state[f"momentum.{n}"].double() if learner.momentum else torch.zeros_like(weights[n]) for n in names}
    anchored = isinstance(learner.anchor, Chunk) and learner.anchor.size > 1
    anchor = {n: state[f"anchor.{n}"].double() for n in names} if anchored else weights
    batch, time = k.shape[:2]
    phase = state["phase"] if anchored else torch.zeros(batch, dtype=torch.int64, device=k.device)
    outputs = []
    for t in range(time):
        live = torch.ones(batch, dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        row = live[:, None, None, None]
        retained = {n: _retain(memory.retention, weights[n], controls, t) for n in names}
        if isinstance(learner.anchor, Chunk):
            opens = (phase == 0)[:, None, None, None]
            anchor = {n: torch.where(row & opens, weights[n], anchor[n]) for n in names}
            point = anchor if anchored else weights
        else:
            point = retained if learner.anchor == "retained" else weights
        gradient = _gradient(memory, point, k[:, t], v[:, t])
        if memory.read_timing == "before":
            outputs.append(_apply(memory, weights, q[:, t]))
        for n in names:
            step = (
                -_each_head(controls["rate"], t) * gradient[n] if learner.rate is None else -learner.rate * gradient[n]
            )
            if learner.momentum:
                step = _each_head(controls["momentum"], t) * momentum[n] + step
            momentum[n] = torch.where(row, step, momentum[n])
            weights[n] = torch.where(row, retained[n] + step, weights[n])
        phase = torch.where(live, (phase + 1) % memory.chunk, phase)
        if memory.read_timing == "after":
            outputs.append(_apply(memory, weights, q[:, t]))
    entries: dict[str, Tensor | State] = dict(weights)
    if learner.momentum:
        entries |= {f"momentum.{n}": momentum[n] for n in names}
    if anchored:
        entries |= {f"anchor.{n}": anchor[n] for n in names}
        entries["phase"] = phase
    out = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, *v.shape[2:])
    return out, state.successor(**entries)


def _each_head(control: Tensor, t: int) -> Tensor:
    return control[:, t, :, None, None]


def _retain(retention: object, weight: Tensor, controls: Controls, t: int) -> Tensor:
    if isinstance(retention, Keep):
        return weight
    assert isinstance(retention, Decay)
    if retention.per == "head":
        return _each_head(controls["decay"], t) * weight
    # weight (B, H, out, in): hidden unit i of the input side belongs to channel i // (in / K).
    decay = controls["decay"][:, t]
    channel = torch.arange(weight.shape[-1], device=weight.device) * decay.shape[-1] // weight.shape[-1]
    return weight * decay[:, :, None, channel]


def _apply(memory: Memory, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return memory.structure.forward(lambda n, h: torch.einsum("bhoi,bhni->bhno", weights[n], h), x[:, :, None])[:, :, 0]


def _gradient(memory: Memory, point: dict[str, Tensor], k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The objective's gradient by each weight, by autograd, differentiable again where gradients are on."""
    outer = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, *point.values()))
    with torch.enable_grad():
        leaves = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in point.items()}
        loss = memory.objective.loss(_apply(memory, leaves, k), v).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), create_graph=outer)
    return dict(zip(leaves, found, strict=True))


def _keep(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
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
            out = [
                torch.softmax(scale * keys[:, h // group] @ query[h], 0) @ values[:, h // group] for h in range(heads)
            ]
            outputs.append(torch.stack(out))
        outputs += [v.new_zeros(heads, v.shape[-1])] * (time - len(outputs))
        rows.append((torch.stack(outputs) if outputs else v.new_zeros(0, heads, v.shape[-1]), entries, count))
    out = torch.stack([row[0] for row in rows]) if rows else v.new_zeros(0, time, heads, v.shape[-1])
    return out, _stored(memory, state, k, v, [(entries, count) for _, entries, count in rows])


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
