"""The literal form of memories that learn by mini-batches."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learner import MiniBatch
from mnemos.memory.learning import Memory
from mnemos.state import State

Weights = dict[str, Tensor]


def learn_in_batches(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """`MiniBatch`, one pair after another, its gradients by autograd."""
    learner = memory.learner
    assert isinstance(learner, MiniBatch)
    names = list(memory.structure.shapes(k.shape[-1], v.shape[-1]))
    held, anchor, total = ({n: state[prefix + n].double() for n in names} for prefix in ("", "anchor.", "sum."))
    batch, time = k.shape[:2]
    phase = state["phase"]
    outputs = []
    for t in range(time):
        now = {name: value[:, t] for name, value in controls.items()}
        live = torch.ones(batch, dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        row, opens = live[:, None, None, None], (phase == 0)[:, None, None, None]
        anchor = {n: torch.where(row & opens, held[n], anchor[n]) for n in names}
        total = {n: torch.where(row & opens, 0.0, total[n]) for n in names}
        gradient = _gradient(memory, anchor, k[:, t], v[:, t], now)
        rate, scale = now["rate"][:, :, None, None], now["scale"][:, :, None, None]
        total = {n: torch.where(row, total[n] - rate * gradient[n], total[n]) for n in names}
        held = {n: torch.where(row, anchor[n] + scale * total[n], held[n]) for n in names}
        phase = torch.where(live, (phase + 1) % learner.size, phase)
        outputs.append(_predict(memory, held, q[:, t]))
    entries: dict[str, Tensor | State] = {"phase": phase}
    for n in names:
        entries |= {n: held[n], f"anchor.{n}": anchor[n], f"sum.{n}": total[n]}
    return torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, *v.shape[2:]), state.successor(**entries)


def _predict(memory: Memory, weights: Weights, x: Tensor) -> Tensor:
    def linear(name: str, h: Tensor) -> Tensor:
        return torch.einsum("bhoi,bhni->bhno", weights[name], h)

    return memory.structure.forward(linear, x[:, :, None])[:, :, 0]


def _gradient(memory: Memory, weights: Weights, k: Tensor, v: Tensor, now: Controls) -> Weights:
    outer = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, *now.values(), *weights.values()))
    with torch.enable_grad():
        leaves = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
        loss = memory.objective.loss(_predict(memory, leaves, k), v, now).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), create_graph=outer)
    return dict(zip(leaves, found, strict=True))
