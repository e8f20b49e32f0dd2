"""Memories whose gradient does not depend on their state: cumulative decay by matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State


def chunk_size(memory: Memory) -> int:
    """Tokens a chunk: 32 where one product makes all scores, 16 where every key channel needs its own."""
    return 16 if memory.retention.scaling == "channel" else 32


def chunk_flops(memory: Memory, request: Request, solve: bool) -> float:
    """Scores, reads, carries and, with `solve`, the triangular inverse, to leading order."""
    size = chunk_size(memory)
    tokens = request.batch * request.heads * request.length
    key, value = request.key_dim, request.value_dim
    inside = 2 * size * (key + value) * (2 if solve else 1) + (2 * size * size if solve else 0)
    if memory.retention.scaling == "channel":
        inside += size * key
    carried = (4 if solve else 2) * 2 * key * value
    assert isinstance(memory.learner, GD)
    return float(tokens * (inside + carried * (2 if memory.learner.momentum else 1)))


class CumulativeDecay:
    """W_t = carry_t W_0 + carry_momentum_t S_0 + sum_j write_tj v_j k_j^T, chunk by chunk; exact."""

    name = "cumulative decay"
    summary = "masked matrix products inside chunks, one state carried from chunk to chunk; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_matrix(memory)
        if reason is None and memory.objective.slope_kind != "constant":
            return "the objective's gradient depends on the state (only Dot's does not)"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        return chunk_flops(memory, request, solve=False)

    def run(
        self,
        memory: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        size, length, dtype = chunk_size(memory), q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, size, q.device)
        queries, keys, values = (cut(x.to(dtype), size) for x in (q, k, v))
        c = coefficients(memory, cut_controls(controls, size, dtype), live, keys)
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)

        added = values.mT @ scale_tokens(keys, c.write[..., -1, :])
        if c.carry_momentum is None:
            befores, after = _carried(state["matrix"], c.carry[..., -1], added)
            momenta, pushed = None, None
        else:
            assert c.momentum_write is not None and c.momentum_carry is not None
            kicked = (values * c.momentum_write[..., None]).mT @ keys
            momenta, pushed = _carried(state["momentum.matrix"], c.momentum_carry[..., None], kicked)
            added = added + scale_weight(momenta, c.carry_momentum[..., -1])
            befores, after = _carried(state["matrix"], c.carry[..., -1], added)
        out = scores(queries, keys, c.write[..., rows, :]) @ values
        out = out + scale_tokens(queries, c.carry[..., rows]) @ befores.mT
        entries: dict[str, Tensor | State] = {"matrix": after}
        if momenta is not None and pushed is not None and c.carry_momentum is not None:
            out = out + scale_tokens(queries, c.carry_momentum[..., rows]) @ momenta.mT
            entries["momentum.matrix"] = pushed
        return join(out, length).to(v.dtype), state.successor(**entries)


def _carried(start: Tensor, factor: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """X_n+1 = X_n * factor_n + added_n: all X_n before their chunks (B, H, N, V, K), and the last one."""
    befores, now = [], start
    for scale, new in zip(factor.unbind(2), added.unbind(2), strict=True):
        befores.append(now)
        now = scale_weight(now, scale) + new
    return torch.stack(befores, 2), now
