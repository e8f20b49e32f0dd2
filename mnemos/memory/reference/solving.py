"""The literal form of memories that solve a least squares problem."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learning import Memory
from mnemos.memory.reference.retaining import retained
from mnemos.state import State


def solve(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """`LeastSquares`: both sums token by token, one linear system a read."""
    values_sum, keys_sum, ridge = (state[name].double() for name in ("matrix", "gram", "ridge"))
    batch, time = k.shape[:2]
    outputs = []
    for t in range(time):
        now = {name: value[:, t] for name, value in controls.items()}
        live = torch.ones(batch, dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        row = live[:, None, None, None]
        if memory.read_timing == "before":
            outputs.append(_answer(values_sum, keys_sum, ridge, q[:, t]))
        rate = now["rate"][:, :, None, None]
        new_values = retained(memory.retention, values_sum, now) + rate * torch.einsum(
            "bhv,bhk->bhvk", v[:, t], k[:, t]
        )
        new_keys = retained(memory.retention, keys_sum, now) + rate * torch.einsum("bhi,bhj->bhij", k[:, t], k[:, t])
        values_sum = torch.where(row, new_values, values_sum)
        keys_sum = torch.where(row, new_keys, keys_sum)
        ridge = torch.where(live[:, None, None], now["ridge"], ridge)
        if memory.read_timing == "after":
            outputs.append(_answer(values_sum, keys_sum, ridge, q[:, t]))
    out = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, *v.shape[2:])
    return out, state.successor(matrix=values_sum, gram=keys_sum, ridge=ridge)


def _answer(values_sum: Tensor, keys_sum: Tensor, ridge: Tensor, q: Tensor) -> Tensor:
    symmetric = (keys_sum + keys_sum.mT) / 2  # it is so already; now its gradient is too
    solved = torch.linalg.solve(symmetric + torch.diag_embed(ridge), q)
    return torch.einsum("bhvk,bhk->bhv", values_sum, solved)
