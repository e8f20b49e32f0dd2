"""The delta rule in all its forms: one unit-triangular system a chunk, momentum included."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.linear import chunk_flops, run_linear
from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State


class TriangularDelta:
    """All residuals of a chunk at once, though each depends on the writes before it; exact."""

    name = "triangular delta"
    summary = "one unit-triangular system per chunk for all residuals, momentum included; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_matrix(memory)
        if reason is None and memory.objective.slope_kind != "identity":
            return "the objective's gradient is not the residual itself (only L2's is)"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        return chunk_flops(memory, request, solve=True)

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
        return run_linear(memory, q, k, v, controls, state, lengths, solve=True)
