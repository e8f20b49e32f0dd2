"""The literal form of the Omega rule."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learner import Omega
from mnemos.memory.learning import Memory
from mnemos.memory.reference.retaining import retained
from mnemos.state import State


def follow_window(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Each row on its own, its last pairs as a plain list, the gradient of the weighted sum of their losses by
    autograd."""
    rows = [_row(memory, b, q, k, v, controls, state, lengths) for b in range(k.shape[0])]
    if not rows:
        return v.new_zeros(0, *v.shape[1:]), state
    entries = {name: torch.cat([row[1][name] for row in rows]) for name in rows[0][1]}
    return torch.cat([row[0] for row in rows]), state.successor(**entries)


def _row(
    memory: Memory, row: int, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    learner, retention = memory.learner, memory.retention
    assert isinstance(learner, Omega)
    here = slice(row, row + 1)
    names = list(memory.structure.shapes(k.shape[-1], v.shape[-1]))
    held = {n: state[n][here].double() for n in names}
    momentum = {n: state[f"momentum.{n}"][here].double() if learner.momentum else held[n] * 0 for n in names}
    pairs: list[tuple[Tensor, Tensor]] = []  # the newest first
    if learner.window > 1:
        keys, values = state["window.keys"][here].double(), state["window.values"][here].double()
        for i in range(int(state["window.count"][row])):
            pairs.append((keys[:, :, -1 - i], values[:, :, -1 - i]))
    outputs = []
    time = k.shape[1] if lengths is None else int(lengths[row])
    for t in range(time):
        now = {name: value[here, t] for name, value in controls.items()}
        if memory.read_timing == "before":
            outputs.append(_apply(memory, held, q[here, t]))
        pairs = [(k[here, t], v[here, t]), *pairs][: learner.window]
        gradient = _gradient(memory, held, pairs, now["window"])
        rate = learner.rate if learner.rate is not None else now["rate"][:, :, None, None]
        held = {n: retained(retention, held[n], now) for n in names}
        for n in names:
            push = -gradient[n] if learner.muon else -rate * gradient[n]
            if learner.momentum:
                push = now["momentum"][:, :, None, None] * momentum[n] + push
            momentum[n] = push
            step = rate * _newton_schulz(push, learner.muon) if learner.muon else push
            held[n] = retention.combine(held[n], step, now)
        if memory.read_timing == "after":
            outputs.append(_apply(memory, held, q[here, t]))
    outputs += [v.new_zeros(1, *v.shape[2:])] * (k.shape[1] - time)
    entries = dict(held)
    if learner.momentum:
        entries |= {f"momentum.{n}": momentum[n] for n in names}
    if learner.window > 1:
        kept = pairs[: learner.window - 1][::-1]
        no_key, no_value = k.new_zeros(1, *k.shape[2:]), v.new_zeros(1, *v.shape[2:])
        empty = learner.window - 1 - len(kept)
        entries["window.keys"] = torch.stack([no_key] * empty + [key for key, _ in kept], 2)
        entries["window.values"] = torch.stack([no_value] * empty + [value for _, value in kept], 2)
        entries["window.count"] = torch.tensor([len(kept)], device=k.device)
    return (torch.stack(outputs, 1) if outputs else v.new_zeros(1, 0, *v.shape[2:])), entries


def _apply(memory: Memory, held: dict[str, Tensor], x: Tensor) -> Tensor:
    weights = {n: memory.retention.link(a) for n, a in held.items()}
    return _forward(memory, weights, x)


def _forward(memory: Memory, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return memory.structure.forward(lambda n, h: torch.einsum("bhoi,bhni->bhno", weights[n], h), x[:, :, None])[:, :, 0]


def _gradient(
    memory: Memory, held: dict[str, Tensor], pairs: list[tuple[Tensor, Tensor]], shares: Tensor
) -> dict[str, Tensor]:
    point = {n: memory.retention.link(a) for n, a in held.items()}
    given = [x for pair in pairs for x in pair]
    outer = torch.is_grad_enabled() and any(x.requires_grad for x in (*given, shares, *point.values()))
    with torch.enable_grad():
        leaves = {n: w if outer and w.requires_grad else w.detach().requires_grad_() for n, w in point.items()}
        loss = sum(
            (shares[..., i] * memory.objective.loss(_forward(memory, leaves, key), value, {})).sum()
            for i, (key, value) in enumerate(pairs)
        )
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, list(leaves.values()), create_graph=outer)
    return dict(zip(leaves, found, strict=True))


def _newton_schulz(x: Tensor, iterations: int) -> Tensor:
    """a X + b (X X^T) X + c (X X^T)^2 X from X = x / |x|; the other side's products give the same."""
    y = x / torch.sqrt((x**2).sum((-2, -1), keepdim=True) + 1e-12)
    for _ in range(iterations):
        cubic = y @ y.transpose(-2, -1) @ y
        y = 3.4445 * y - 4.7750 * cubic + 2.0315 * cubic @ y.transpose(-2, -1) @ y
    return y
