"""The plain loop over `step`: runs any memory, one token after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State


class Loop:
    """T calls of `memory.advance`."""

    name = "loop"
    summary = "one token after another; runs any memory, and is the fastest for a single token"

    def declines(self, memory: Any, request: Request) -> str | None:
        return None

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.length * request.heads
        return tokens * memory.step_flops(request.key_dim, request.value_dim, request.length)

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
        if q.shape[1] > 1 and not torch.is_grad_enabled():
            state = state.clone()  # the steps work in place; the caller keeps the state that was passed in
        outputs = []
        for t in range(q.shape[1]):
            now = {name: value[:, t] for name, value in controls.items()}
            before = state if lengths is None else state.clone()
            out, state = memory.advance(state, q[:, t], k[:, t], v[:, t], now)
            if lengths is not None:
                state = _where(t < lengths, state, before)
            outputs.append(out)
        return torch.stack(outputs, 1), state


def _where(rows: Tensor, new: State, old: State) -> State:
    """The new state in the rows where `rows` is True; entries that only the new one has stay empty elsewhere."""
    entries: dict[str, Tensor | State] = {}
    for name, after in new.entries.items():
        if isinstance(after, State):
            entries[name] = _where(rows, after, old.child(name))
            continue
        before = old[name]
        if before.shape != after.shape:
            grown = after.shape[1] - before.shape[1]
            before = torch.cat([before, before.new_zeros(before.shape[0], grown, *before.shape[2:])], 1)
        entries[name] = torch.where(rows.view(-1, *[1] * (after.ndim - 1)), after, before)
    return new.successor(**entries)
