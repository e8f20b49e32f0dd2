"""Higher-order linear attention by masked matrix products inside chunks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.chunks import carried, cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import PairProducts
from mnemos.execute.request import Request
from mnemos.memory import Controls, HigherOrder
from mnemos.state import State

CHUNK = 32


class NestedSums:
    """With D the decays between two tokens of a chunk, c from its start to a token, r from a token to its end, and
    S, C, G at its start, the second order is

        O = c^2 Q (S C - G) + c (D * Q S Q^T) V + (D * [(D * Q K^T) triu(K Q^T)]) V

    where the term in the middle are pairs with one key before the chunk and one value in it. The other forms are two
    and three decayed linear attentions, one inside the other.
    """

    name = "nested sums"
    summary = "masked matrix products inside chunks, the sums carried from chunk to chunk; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, HigherOrder)

    def flops(self, memory: Any, request: Request) -> float:
        key, value = request.key_dim, request.value_dim
        inside = 2 * CHUNK * (3 * key + 2 * value + CHUNK)
        carried = 4 * sum(rows * columns for rows, columns in memory.shapes(key, value).values())
        return float(request.batch * request.heads * request.length * (inside + carried))

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
        length, dtype = q.shape[1], state["nested_sum" if memory.form != "second" else "late_sum"].dtype
        live = live_tokens(length, lengths, CHUNK, q.device)
        queries, keys, values = (cut(x.to(dtype), CHUNK) for x in (q, k, v))
        by_name = cut_controls(controls, CHUNK, dtype)
        asked, decay = by_name["query"], by_name.get("decay", torch.ones_like(keys[..., 0]))
        if live is not None:  # other tokens write nothing and keep everything
            keys, values, asked = (torch.where(live[..., None], x, 0.0) for x in (keys, values, asked))
            decay = torch.where(live, decay, 1.0)
        kept = PairProducts.apply(decay)  # (B, H, N, C + 1, C + 1)
        assert isinstance(kept, Tensor)
        sums = _Sums(kept[..., 1:, 0, None], kept[..., 1:, 1:], kept[..., -1, 0], kept[..., -1, 1:, None])
        form = _second if memory.form == "second" else _nested
        out, after = form(sums, queries, keys, values, asked, state)
        return join(out, length).to(v.dtype), state.successor(**after)


class _Sums:
    """Decays of the chunks: from the start to each token (..., C, 1), between tokens (..., C, C), over the whole chunk
    (...), and from each token to the end (..., C, 1)."""

    def __init__(self, begin: Tensor, between: Tensor, whole: Tensor, end: Tensor):
        self.begin, self.between, self.whole, self.end = begin, between, whole, end

    def attend(self, q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """q_t^T X_t for X_t = decay_t X_t-1 + k_t v_t^T, and the last X."""
        befores, after = carried(start, self.whole, k.mT @ (self.end * v))
        return self.begin * (q @ befores) + (self.between * (q @ k.mT)) @ v, after


def _second(
    sums: _Sums, q: Tensor, k: Tensor, v: Tensor, asked: Tensor, state: State
) -> tuple[Tensor, dict[str, Tensor]]:
    moment = k.mT @ (sums.end * k)
    before, keys = carried(state["key_sum"], sums.whole, moment)
    crossed, queries = carried(state["query_sum"], sums.whole, asked.mT @ (sums.end * v))
    met = k @ asked.mT
    within = k.mT @ (sums.end * (met.tril(-1) @ (sums.end * v)))
    within = within + moment @ (sums.whole[..., None, None] * crossed)
    late, last = carried(state["late_sum"], sums.whole.square(), within)
    found = q @ before
    out = sums.begin.square() * (found @ crossed - q @ late)
    out = out + sums.begin * ((sums.between * (found @ asked.mT)) @ v)
    out = out + (sums.between * ((sums.between * (q @ k.mT)) @ met.triu())) @ v
    return out, {"key_sum": keys, "query_sum": queries, "late_sum": last}


def _nested(
    sums: _Sums, q: Tensor, k: Tensor, v: Tensor, asked: Tensor, state: State
) -> tuple[Tensor, dict[str, Tensor]]:
    after: dict[str, Tensor] = {}
    inner, after["value_sum"] = sums.attend(asked, k, v, state["value_sum"])
    outer = k
    if "key_sum" in state.entries:  # the third order
        outer, moment = sums.attend(asked, k, k, state["key_sum"].mT)
        after["key_sum"] = moment.mT
    out, after["nested_sum"] = sums.attend(q, outer, inner, state["nested_sum"])
    return out, after
