"""The literal form of memories that take the implicit step."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learner import Implicit
from mnemos.memory.learning import Memory
from mnemos.memory.reference.retaining import retained
from mnemos.state import State


def approach(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """`Implicit`: the minimum by its normal equations, W (I + rate k k^T) = W' + rate v k^T; element by element where
    it is diagonal."""
    assert isinstance(memory.learner, Implicit)
    held = state["matrix"].double()
    batch, time = k.shape[:2]
    eye = torch.eye(k.shape[-1], dtype=torch.float64, device=k.device)
    outputs = []
    for t in range(time):
        now = {name: value[:, t] for name, value in controls.items()}
        live = torch.ones(batch, dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        if memory.read_timing == "before":
            outputs.append(torch.einsum("bhvk,bhk->bhv", held, q[:, t]))
        before, key, value = retained(memory.retention, held, now), k[:, t], v[:, t]
        if memory.learner.diagonal:
            length = torch.einsum("bhk,bhk->bh", key, key)[:, :, None]
            step = (now["rate"] / (1 + now["rate"] * length))[:, :, :, None]
            kept = 1 - step * key[:, :, None, :] ** 2
            after = kept * before + step * torch.einsum("bhv,bhk->bhvk", value, key)
        else:
            rate = now["rate"][:, :, None, None]
            system = eye + rate * torch.einsum("bhi,bhj->bhij", key, key)
            wanted = before + rate * torch.einsum("bhv,bhk->bhvk", value, key)
            after = torch.linalg.solve(system, wanted, left=False)
        held = torch.where(live[:, None, None, None], after, held)
        if memory.read_timing == "after":
            outputs.append(torch.einsum("bhvk,bhk->bhv", held, q[:, t]))
    out = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, *v.shape[2:])
    return out, state.successor(matrix=held)
