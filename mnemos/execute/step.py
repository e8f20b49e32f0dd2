"""One token of a matrix memory, gradients off: four products that work in the state itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.loop import Loop
from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State


class MatrixStep:
    """What `Memory.advance` does, without its generality: at one token a call, the calls are what costs."""

    name = "matrix step"
    summary = "one token by four products that update the state in place; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if request.length != 1 or request.training:
            return "it is for a single token with gradients off"
        reason = declines_unless_matrix(memory)
        if reason is None and memory.objective.slope_kind == "nonlinear":
            return "the objective's gradient is neither constant nor the residual"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads
        return tokens * memory.step_flops(request.key_dim, request.value_dim, 1)

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
        if lengths is not None:  # rows of no token
            return Loop().run(memory, q, k, v, controls, state, lengths)
        assert isinstance(memory, Memory) and isinstance(memory.learner, GD)
        state.refuse_if_spent()
        entries: dict[str, Tensor | State] = {"matrix": state["matrix"].contiguous()}
        weight = _flat(entries["matrix"])
        rows, dtype = weight.shape[0], weight.dtype
        # Rows, not columns: a product with a row costs less than half as much.
        query, key, value = (_cast(x, dtype).reshape(rows, 1, -1) for x in (q, k, v))
        read = weight.mT
        decay = _cast(controls["decay"], dtype).reshape(rows, 1, -1) if "decay" in controls else None

        out = torch.bmm(query, read) if memory.read_timing == "before" else None
        if decay is not None and memory.learner.anchor == "retained":
            weight.mul_(decay)
        if memory.objective.slope_kind == "constant":
            slope = -value
        else:
            slope = torch.bmm(key, read).sub_(value)
        if decay is not None and memory.learner.anchor != "retained":
            weight.mul_(decay)
        if memory.learner.rate is None:
            slope.mul_(_cast(controls["rate"], dtype).reshape(rows, 1, 1))
        size = -1.0 if memory.learner.rate is None else -memory.learner.rate
        if memory.learner.momentum:
            entries["momentum.matrix"] = state["momentum.matrix"].contiguous()
            momentum = _flat(entries["momentum.matrix"])
            momentum.mul_(_cast(controls["momentum"], dtype).reshape(rows, 1, 1))
            weight.add_(momentum.addcmul_(slope.mT, key, value=size))
        else:
            weight.addcmul_(slope.mT, key, value=size)
        if out is None:
            out = torch.bmm(query, read)
        state.spend()
        return _cast(out.view(q.shape[0], 1, q.shape[2], -1), v.dtype), state.successor(**entries)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def _flat(x: Tensor | State) -> Tensor:
    assert isinstance(x, Tensor)
    return x.flatten(0, 1)
