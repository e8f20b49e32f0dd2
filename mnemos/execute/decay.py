"""Memories whose gradient does not depend on their state: cumulative decay by matrix products."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.linear import chunk_flops, run_linear
from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State


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
        return run_linear(memory, q, k, v, controls, state, lengths, solve=False)
