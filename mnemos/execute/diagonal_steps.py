"""Implicit steps along the diagonal: every element of the state is a recurrence of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.request import Request
from mnemos.execute.scan import diagonal_scan
from mnemos.memory import Controls, Decay, Implicit, Keep
from mnemos.state import State


class DiagonalSteps:
    """W_t = decay_t (1 - D_t k_t^2) * W_t-1 + D_t v_t k_t^T, element by element, by a scan."""

    name = "diagonal steps"
    summary = "a scan of every element of the state by itself; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, learner=Implicit)) is not None:
            return other
        if not memory.learner.diagonal:
            return "the step is not diagonal (Implicit(diagonal=True))"
        if type(memory.retention) is Keep or (
            type(memory.retention) is Decay and memory.retention.scaling in ("head", "channel")
        ):
            return None
        return "the retention does more than scale by a factor a head or key channel"

    def flops(self, memory: Any, request: Request) -> float:
        elements = request.batch * request.length * request.heads * request.key_dim * request.value_dim
        return 12.0 * elements

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
        start = state["matrix"]
        queries, keys, values = (x.to(start.dtype) for x in (q, k, v))
        controls = {name: value.to(start.dtype) for name, value in controls.items()}
        step = memory.learner.step(keys, controls)
        kept = 1 - step[..., None] * keys.square()[..., None, :]
        decay = controls.get("decay")
        if decay is not None:
            kept = kept * (decay[..., None, None] if memory.retention.scaling == "head" else decay[..., None, :])
        written = (step * values)[..., None] * keys[..., None, :]
        held, after = diagonal_scan(kept.flatten(2), written.flatten(2), start.flatten(1))
        held, after = held.view_as(written), after.view_as(start)
        if lengths is not None:
            index = (lengths - 1).clamp(min=0)[:, None, None, None, None].expand(-1, 1, *start.shape[1:])
            after = torch.where((lengths > 0)[:, None, None, None], held.gather(1, index)[:, 0], start)
        if memory.read_timing == "before":
            held = torch.cat([start[:, None], held[:, :-1]], 1)
        return (held @ queries[..., None])[..., 0].to(v.dtype), state.successor(matrix=after)
