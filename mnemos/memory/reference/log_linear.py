"""The literal form of log-linear memories: buckets with a cascade of carries."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.learner import GD
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.objective import L2
from mnemos.state import State


def fenwick(
    memory: LogLinear, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row and token by token, each level a matrix of its own."""
    batch, time, heads, width = q.shape
    learner = memory.memory.learner
    assert isinstance(learner, GD)
    eye = torch.eye(width, dtype=q.dtype, device=q.device)
    outputs, matrices, weights, counts = [], [], [], []
    for b in range(batch):
        count = int(state["count"][b])
        levels = list(state["matrix"][b].double().unbind(1))
        weight = state["level"][b].double()
        answers = []
        for t in range(time if lengths is None else int(lengths[b])):
            _carry(levels, count)
            key = k[b, t]
            rate = controls["rate"][b, t] if learner.rate is None else key.new_full((heads,), learner.rate)
            transition = eye.expand(heads, -1, -1)
            erased = (
                rate[:, None, None] * key[:, :, None] * key[:, None, :]
                if isinstance(memory.memory.objective, L2)
                else 0
            )
            if "decay" in controls:
                decay = controls["decay"][b, t][:, None, None]
                kept = decay * transition
                transition = kept @ (eye - erased) if learner.anchor == "retained" else kept - erased
            else:
                transition = transition - erased
            levels = [level @ transition for level in levels]
            levels[0] = levels[0] + rate[:, None, None] * v[b, t][:, :, None] * key[:, None, :]
            weight = controls["level"][b, t]
            read = sum(weight[:, i, None, None] * level for i, level in enumerate(levels))
            answers.append(torch.einsum("hvk,hk->hv", read, q[b, t]))
            count += 1
        answers += [v.new_zeros(heads, v.shape[-1])] * (time - len(answers))
        outputs.append(torch.stack(answers) if answers else v.new_zeros(0, heads, v.shape[-1]))
        matrices.append(torch.stack(levels, 1))
        weights.append(weight)
        counts.append(count)
    if not batch:
        return v.new_zeros(0, time, heads, v.shape[-1]), state
    return torch.stack(outputs), state.successor(
        matrix=torch.stack(matrices),
        level=torch.stack(weights),
        count=torch.tensor(counts, dtype=torch.int64, device=q.device),
    )


def _carry(levels: list[Tensor], count: int) -> None:
    """Makes room in level 0: whatever is full goes up a level, as when 1 is added to a binary number. Before token
    `count`, level i + 1 holds 2^i tokens or none; the last level takes any number."""
    if count == 0:
        return
    going = levels[0]
    for i in range(1, len(levels)):
        levels[i - 1] = torch.zeros_like(going)
        occupied = bool((count - 1) >> (i - 1) & 1)
        going = going + levels[i]
        levels[i] = going
        if not occupied:
            return
