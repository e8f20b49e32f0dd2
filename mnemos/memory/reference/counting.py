"""The literal form of sparse distributed memories: a counter for every location."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.sparse_distributed import SparseDistributed
from mnemos.state import State


def count_up(
    memory: SparseDistributed,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None,
) -> tuple[Tensor, State]:
    """Row by row, token by token, location by location."""
    batch, time, heads, bits = q.shape
    addresses = memory.addresses(bits).tolist()

    def near(x: Tensor) -> list[int]:
        signs = [value > 0 for value in x.tolist()]
        return [
            m
            for m, address in enumerate(addresses)
            if sum(bool(bit) != sign for bit, sign in zip(address, signs, strict=True)) <= memory.radius
        ]

    outputs, matrices = [], []
    for b in range(batch):
        for h in range(heads):
            counters = list(state["matrix"][b, h].double().unbind(-1))
            answers = [v.new_zeros(v.shape[-1])] * time
            for t in range(time if lengths is None else int(lengths[b])):
                for m in near(k[b, t, h]):
                    counters[m] = counters[m] + v[b, t, h]
                whole = sum((counters[m] for m in near(q[b, t, h])), v.new_zeros(v.shape[-1]))
                answers[t] = whole.sign() if memory.answer == "sign" else whole
            outputs.append(torch.stack(answers) if answers else v.new_zeros(0, v.shape[-1]))
            matrices.append(torch.stack(counters, -1))
    if not batch:
        return v.new_zeros(0, time, heads, v.shape[-1]), state
    out = torch.stack(outputs).view(batch, heads, time, -1).transpose(1, 2)
    return out, state.successor(matrix=torch.stack(matrices).view(state["matrix"].shape))
