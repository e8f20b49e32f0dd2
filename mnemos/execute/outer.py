"""Forgetting by value channel and key channel, with wide keys: cumulative decay with coefficients for each value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_elementwise
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import PairProducts, coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State

CHUNK = 16


class OuterDecay:
    """o_tv = (Diag(b_t..1) W_0 Diag(a_t..1) q_t)_v + sum_s b_t..s,v rate_s (q_t . Diag(a_t..s) k_s) v_sv, chunk by
    chunk: the scores of keys are shared by all values, whose decay b weighs each of them anew."""

    name = "outer decay"
    summary = "scores inside chunks, weighed again for every value channel, one state carried on; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_elementwise(memory)
        if reason is None and memory.learner.momentum and memory.retention.per == "outer":
            return "with momentum, decay on both sides does not come apart into a factor for each"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        key, value = request.key_dim, request.value_dim
        inside = CHUNK * (2 * key + 4 * value) + (CHUNK * key if memory.retention.per == "outer" else 0)
        carried = 4 * key * value * (2 if memory.learner.momentum else 1)
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
        length, dtype = q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, CHUNK, q.device)
        queries, keys, values = (cut(x.to(dtype), CHUNK) for x in (q, k, v))
        cut_up = cut_controls(controls, CHUNK, dtype)
        of_keys = None
        if memory.retention.per == "outer":
            decay = cut_up["decay"].mT
            if live is not None:
                decay = torch.where(live[..., None, :], decay, 1.0)
            of_keys = PairProducts.apply(decay)
            assert isinstance(of_keys, Tensor)
            cut_up["decay"] = cut_up.pop("value_decay")
        c = coefficients(memory, cut_up, live, keys)  # one group a value channel
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)

        last, begin = keys, queries
        if of_keys is None:
            shared = queries @ keys.mT
        else:
            last, begin = keys * of_keys[..., -1, 1:].mT, scale_tokens(queries, of_keys[..., rows, 0])
            shared = scores(queries, keys, of_keys[..., rows, 1:])
        added = (values * c.write[..., -1, :].mT).mT @ last
        out = ((shared[..., None, :, :] * c.write[..., rows, :]) @ values.mT[..., None])[..., 0].mT
        befores, momenta = [], []
        weight, push = state["matrix"], state["momentum.matrix"] if memory.learner.momentum else None
        for n in range(keys.shape[2]):
            befores.append(weight)
            after = weight * c.carry[:, :, n, :, -1, None]
            if of_keys is not None:
                after = scale_weight(after, of_keys[:, :, n, :, -1, 0])
            after = after + added[:, :, n]
            if push is not None:
                assert c.carry_momentum is not None and c.momentum_carry is not None and c.momentum_write is not None
                momenta.append(push)
                after = after + push * c.carry_momentum[:, :, n, :, -1, None]
                kicked = (values[:, :, n] * c.momentum_write[:, :, n, :, None]).mT @ keys[:, :, n]
                push = push * c.momentum_carry[:, :, n, None, None] + kicked
            weight = after
        out = out + (begin @ torch.stack(befores, 2).mT) * c.carry[..., rows].mT
        entries: dict[str, Tensor | State] = {"matrix": weight}
        if push is not None and c.carry_momentum is not None:
            out = out + (queries @ torch.stack(momenta, 2).mT) * c.carry_momentum[..., rows].mT
            entries["momentum.matrix"] = push
        return join(out, length).to(v.dtype), state.successor(**entries)
