"""The delta rule in all its forms: one unit-triangular system a chunk, momentum included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.decay import chunk_flops, chunk_size
from mnemos.execute.request import Request
from mnemos.execute.triangular import unit_lower_inverse
from mnemos.memory import Controls
from mnemos.state import State


class TriangularDelta:
    """The residuals r_i = W k_i - v_i of a chunk, each depending on the writes before it, solve (I + L) r = b.

    With a_i the decay if the gradient is taken after retention and 1 if before:
    b_i = a_i (carry_i-1 W_0 + carry_momentum_i-1 S_0) k_i - v_i and L_ij = a_i write_i-1,j (k_j . k_i).
    """

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
        size, length, dtype = chunk_size(memory), q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, size, q.device)
        queries, keys, values = (cut(x.to(dtype), size) for x in (q, k, v))
        cut_up = cut_controls(controls, size, dtype)
        c = coefficients(memory, cut_up, live, keys)

        asking = keys
        if memory.learner.anchor == "retained" and "decay" in cut_up:
            decay = cut_up["decay"]
            asking = keys * (decay if decay.ndim == keys.ndim else decay[..., None])
        solve = unit_lower_inverse(scores(asking, keys, c.write[..., :-1, :]))
        from_weights = solve @ scale_tokens(asking, c.carry[..., :-1])
        from_values = solve @ values
        with_momentum = c.carry_momentum is not None
        written = scale_tokens(keys, c.write[..., -1, :])
        weights, momenta, residuals = [], [], []
        weight = state["matrix"]
        momentum = state["momentum.matrix"] if with_momentum else weight
        if c.carry_momentum is not None and c.momentum_write is not None:
            from_momentum = (solve @ scale_tokens(asking, c.carry_momentum[..., :-1])).unbind(2)
            kicked = (keys * c.momentum_write[..., None]).unbind(2)
        else:
            from_momentum, kicked = (), ()

        chunks = c.unbind(2)
        pieces = zip(chunks, from_weights.unbind(2), from_values.unbind(2), written.unbind(2), strict=True)
        for n, (here, at_weight, target, key) in enumerate(pieces):
            weights.append(weight)
            residual = at_weight @ weight.mT - target
            after = scale_weight(weight, here.carry[..., -1])
            if here.carry_momentum is not None and here.momentum_carry is not None:
                momenta.append(momentum)
                residual = residual + from_momentum[n] @ momentum.mT
                after = after + scale_weight(momentum, here.carry_momentum[..., -1])
                momentum = momentum * here.momentum_carry[..., None, None] - residual.mT @ kicked[n]
            weight = after - residual.mT @ key
            residuals.append(residual)

        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
        out = scale_tokens(queries, c.carry[..., rows]) @ torch.stack(weights, 2).mT
        out = out - scores(queries, keys, c.write[..., rows, :]) @ torch.stack(residuals, 2)
        entries: dict[str, Tensor | State] = {"matrix": weight}
        if c.carry_momentum is not None:
            out = out + scale_tokens(queries, c.carry_momentum[..., rows]) @ torch.stack(momenta, 2).mT
            entries["momentum.matrix"] = momentum
        return join(out, length).to(v.dtype), state.successor(**entries)
