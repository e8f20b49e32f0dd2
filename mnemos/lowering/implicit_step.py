"""The implicit step on squared errors is a gradient step of another size."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mnemos.execute import Request
from mnemos.lowering.rewrite import Runner
from mnemos.memory import GD, Controls, Implicit, Memory
from mnemos.state import State


class ImplicitStep:
    """Implicit() at a rate b is GD() at the rate b / (1 + b |k|^2), its gradient taken after forgetting."""

    name = "implicit step as gradient step"

    def memory(self, memory: Any) -> Any | None:
        if not isinstance(memory, Memory) or not isinstance(memory.learner, Implicit) or memory.learner.diagonal:
            return None
        return memory.replace(learner=GD())

    def request(self, memory: Any, request: Request) -> Request:
        return request

    def run(
        self,
        memory: Any,
        inner: Runner,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        dtype = state["matrix"].dtype
        rate = memory.learner.step(k.to(dtype), {"rate": controls["rate"].to(dtype)})[..., 0]
        return inner(q, k, v, {**controls, "rate": rate}, state, lengths)
