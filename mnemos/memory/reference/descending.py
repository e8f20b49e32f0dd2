"""The literal form of memories that learn by gradient descent."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learner import GD, Chunk
from mnemos.memory.learning import Memory
from mnemos.memory.reference.retaining import retained
from mnemos.state import State


def descend(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Gradient descent as `GD` and `Retention` state it, one pair after another."""
    learner, retention = memory.learner, memory.retention
    assert isinstance(learner, GD)
    pairs = memory.pairs
    names = list(memory.structure.shapes(k.shape[-1] // pairs, v.shape[-1] // pairs))
    held = {n: state[n].double() for n in names}
    momentum = {n: state[f"momentum.{n}"].double() if learner.momentum else torch.zeros_like(held[n]) for n in names}
    anchored = isinstance(learner.anchor, Chunk) and learner.anchor.size > 1
    anchor = {n: state[f"anchor.{n}"].double() for n in names} if anchored else held
    batch, time = k.shape[:2]
    phase = state["phase"] if anchored else torch.zeros(batch, dtype=torch.int64, device=k.device)
    outputs = []
    for t in range(time):
        now = {name: value[:, t] for name, value in controls.items()}
        live = torch.ones(batch, dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        row = live[:, None, None, None]
        if memory.read_timing == "before":
            outputs.append(_apply(memory, held, q[:, t]))
        before = held
        held = {n: retained(retention, held[n], now) for n in names}
        if isinstance(learner.anchor, Chunk):
            opens = (phase == 0)[:, None, None, None]
            anchor = {n: torch.where(row & opens, before[n], anchor[n]) for n in names}
        for i in range(pairs):
            if isinstance(learner.anchor, Chunk):
                point = anchor if anchored else before
            else:
                point = held if learner.anchor == "retained" else before
            gradient = _gradient(memory, point, k[:, t].chunk(pairs, -1)[i], v[:, t].chunk(pairs, -1)[i], now)
            for n in names:
                step = -_rate(learner, now, i) * gradient[n]
                if learner.momentum:
                    step = now["momentum"][:, :, None, None] * momentum[n] + step
                momentum[n] = torch.where(row, step, momentum[n])
                held[n] = retention.combine(held[n], step, now)
        held = {n: torch.where(row, held[n], before[n]) for n in names}
        phase = torch.where(live, (phase + 1) % learner.chunk, phase)
        if memory.read_timing == "after":
            outputs.append(_apply(memory, held, q[:, t]))
    entries: dict[str, Tensor | State] = dict(held)
    if learner.momentum:
        entries |= {f"momentum.{n}": momentum[n] for n in names}
    if anchored:
        entries |= {f"anchor.{n}": anchor[n] for n in names}
        entries["phase"] = phase
    out = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, *v.shape[2:])
    return out, state.successor(**entries)


def _rate(learner: GD, now: Controls, pair: int) -> Tensor | float:
    if learner.rate is not None:
        return learner.rate
    rate = now["rate"] if learner.steps == 1 else now["rate"][..., pair]
    return rate[:, :, None, None]


def _apply(memory: Memory, held: dict[str, Tensor], x: Tensor) -> Tensor:
    weights = {n: memory.retention.link(a) for n, a in held.items()}
    return _forward(memory, weights, x)


def _forward(memory: Memory, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return memory.structure.forward(lambda n, h: torch.einsum("bhoi,bhni->bhno", weights[n], h), x[:, :, None])[:, :, 0]


def _gradient(memory: Memory, held: dict[str, Tensor], k: Tensor, v: Tensor, controls: Controls) -> dict[str, Tensor]:
    """The objective's gradient by each weight, by autograd, differentiable again where gradients are on."""
    point = {n: memory.retention.link(a) for n, a in held.items()}
    outer = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, *controls.values(), *point.values()))
    with torch.enable_grad():
        leaves = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in point.items()}
        loss = memory.objective.loss(_forward(memory, leaves, k), v, controls).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), create_graph=outer)
    return dict(zip(leaves, found, strict=True))
