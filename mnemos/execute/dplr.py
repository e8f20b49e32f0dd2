"""Diagonal plus low rank transitions: one unit-triangular system per chunk for what they remove."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_removal
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import PairProducts, scale_tokens, scale_weight, scores
from mnemos.execute.request import Request
from mnemos.execute.triangular import unit_lower_inverse
from mnemos.memory import Controls
from mnemos.state import State

CHUNK = 16


class TriangularRemoval:
    """W_t = W_t-1 Diag(w_t) - u_t b_t^T + rate_t v_t k_t^T with u_t = W_t-1 a_t (removal a, replacement b).

    With P_ts = prod_{s < i <= t} w_i per channel, the removed parts of a chunk solve (I + L) u = c, where
    L_ij = sum_c a_ic P_i-1,j,c b_jc and c_i = W_0 (P_i-1,0 a_i) + sum_j<i rate_j v_j sum_c a_ic P_i-1,j,c k_jc.
    """

    name = "triangular removal"
    summary = "one unit-triangular system per chunk for the removed parts, decays as products of pairs; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_removal(memory)

    def flops(self, memory: Any, request: Request) -> float:
        key, value = request.key_dim, request.value_dim
        scored = 4 * 3 * CHUNK * key  # four products of directions, with a decay each
        inside = 2 * CHUNK * (CHUNK + key + 4 * value)
        return float(request.batch * request.heads * request.length * (scored + inside + 10 * key * value))

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
        length, dtype = q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, CHUNK, q.device)
        queries, keys, values = (cut(x.to(dtype), CHUNK) for x in (q, k, v))
        by_name = cut_controls(controls, CHUNK, dtype)
        decay, removal, replacement = by_name["decay"], by_name["removal"], by_name["replacement"]
        values = values * (by_name["rate"][..., None] if "rate" in by_name else memory.learner.rate)
        if live is not None:  # other tokens keep, remove and write nothing
            decay = torch.where(live[..., None], decay, 1.0)
            removal, values = (torch.where(live[..., None], x, 0.0) for x in (removal, values))
        kept = PairProducts.apply(decay.mT)  # (B, H, N, K, C + 1, C + 1)
        assert isinstance(kept, Tensor)

        carry, write = kept[..., 0], kept[..., 1:]
        solve = unit_lower_inverse(scores(removal, replacement, write[..., :-1, :]))
        of_weight = solve @ scale_tokens(removal, carry[..., :-1])
        of_values = solve @ (scores(removal, keys, write[..., :-1, :]) @ values)
        last = write[..., -1, :]
        written, replaced = scale_tokens(keys, last), scale_tokens(replacement, last)
        added = values.mT @ written
        weight, weights, removed = state["matrix"], [], []
        chunks = zip(*(x.unbind(2) for x in (of_weight, of_values, replaced, added, carry[..., -1])), strict=True)
        for at_weight, at_values, back, new, factor in chunks:
            weights.append(weight)
            removed.append(at_weight @ weight.mT + at_values)
            weight = scale_weight(weight, factor) + new - removed[-1].mT @ back

        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
        out = scale_tokens(queries, carry[..., rows]) @ torch.stack(weights, 2).mT
        out = out + scores(queries, keys, write[..., rows, :]) @ values
        out = out - scores(queries, replacement, write[..., rows, :]) @ torch.stack(removed, 2)
        return join(out, length).to(v.dtype), state.successor(matrix=weight)
