"""A sparse distributed memory is a Hebbian matrix memory of the locations near its keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mnemos.execute import Request
from mnemos.lowering.rewrite import Runner
from mnemos.memory import GD, Controls, Dot, Keep, Matrix, Memory, SparseDistributed
from mnemos.state import State


class HardLocations:
    """Counters that add up v at a(k), read at a(q), are the matrix memory W + v a(k)^T; their sign comes after."""

    name = "hard locations"

    def memory(self, memory: Any) -> Any | None:
        if not isinstance(memory, SparseDistributed):
            return None
        return Memory(Matrix(), Dot(), Keep(), GD(rate=1.0))

    def request(self, memory: Any, request: Request) -> Request:
        return request._replace(key_dim=memory.size(request.key_dim))

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
        out, after = inner(memory.active(q), memory.active(k), v, controls, state, lengths)
        return out.sign() if memory.answer == "sign" else out, after
