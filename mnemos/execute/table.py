"""Memories with a retention policy: all tokens between two evictions at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.attention import attended
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.loop import Loop
from mnemos.execute.request import Request
from mnemos.memory import Controls, KVMemory, Policy
from mnemos.memory.heads import respond
from mnemos.memory.keeping import over_group
from mnemos.memory.places import put_in_table
from mnemos.memory.rotary import rotate
from mnemos.state import State, concatenate

BLOCK = 64
"""Queries at a time: so many rows of weights exist at once."""


class BetweenEvictions:
    """Until the budget is full, and then from one eviction to the next, a policy keeps everything: such a stretch is
    one dense attention, in blocks of queries. The token that an eviction belongs to is a step of its own."""

    name = "between evictions"
    summary = "dense attention from each eviction to the next, in blocks of queries; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, KVMemory)) is not None:
            return other
        if not isinstance(memory.retain, Policy):
            return "what the memory keeps is no policy's choice"
        return None

    def flops(self, memory: Any, request: Request) -> float:
        pairs = request.batch * request.heads * request.length * min(memory.retain.capacity, request.length)
        return pairs * memory.read_rule.pair_flops(request.key_dim, request.value_dim)

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
        count = state["count"]
        if torch.compiler.is_compiling():  # how far a stretch goes depends on the state
            return Loop().run(memory, q, k, v, controls, state, lengths)
        if lengths is None and bool((count == count[0]).all()):
            return _together(memory, q, k, v, controls, state)
        outputs, states = [], []  # rows evict at different times
        for row in range(q.shape[0]):
            end = q.shape[1] if lengths is None else int(lengths[row])
            mine = {name: value[row : row + 1, :end] for name, value in controls.items()}
            after = state._select(torch.tensor([row], device=q.device))
            out = v.new_zeros(1, 0, q.shape[2], v.shape[-1])
            if end:
                one = slice(row, row + 1)
                out, after = _together(memory, q[one, :end], k[one, :end], v[one, :end], mine, after)
            outputs.append(F.pad(out, (0, 0, 0, 0, 0, q.shape[1] - end)))
            states.append(after)
        return torch.cat(outputs), concatenate(states)


def _together(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State
) -> tuple[Tensor, State]:
    """Rows that have all seen as many tokens."""
    assert isinstance(memory.retain, Policy)
    if not torch.is_grad_enabled():
        state = state.clone()  # work in place; the caller keeps the state that was passed in
    outputs, start, length = [], 0, q.shape[1]
    while start < length:
        filled = int((state["slot"][0, 0] > 0).sum())
        number = min(undisturbed(memory.retain, filled, int(state["count"][0])), length - start, BLOCK)
        stretch = slice(start, start + max(number, 1))
        now = {name: value[:, stretch] for name, value in controls.items()}
        if number > 1:
            out, state = _stretch(memory, q[:, stretch], k[:, stretch], v[:, stretch], now, state)
        else:
            inputs = (x[:, start] for x in (q, k, v))
            out, state = memory.advance(state, *inputs, {name: value[:, 0] for name, value in now.items()})
            out = out[:, None]
        outputs.append(out)
        start = stretch.stop
    return torch.cat(outputs, 1), state


def undisturbed(policy: Policy, filled: int, count: int) -> int:
    """How many tokens can follow `count` without an eviction, with so many places filled."""
    # The i-th of them evicts if count + i is a multiple of the period and filled + i exceeds the budget.
    first = max(policy.budget - filled + 1, 1)
    return first + -(count + first) % policy.period - 1


def _stretch(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State
) -> tuple[Tensor, State]:
    """Tokens of which none evicts."""
    rule, policy = memory.read_rule, memory.retain
    assert isinstance(policy, Policy)
    number, heads = q.shape[1], k.shape[2]
    position = state["count"][:, None] + torch.arange(number, device=q.device)
    out_dtype, v = v.dtype, memory.packed(v, controls)
    if rule.rotary is not None:
        q, k = (rotate(x, position, rule.rotary) for x in (q, k))
    dtype = state["keys"].dtype
    new = state.successor(**put_in_table(policy, state, k.to(dtype).transpose(1, 2), v.to(dtype).transpose(1, 2)))

    used = int((new["slot"] > 0).any(0).any(0).nonzero().max()) + 1  # places are filled from the first on
    there = {name: x[:, :, :used] for name, x in new.tensors() if x.ndim > 1}
    slot, asked = there["slot"][:, :, None], position[:, None, :, None]  # (B, H, 1, N), (B, 1, n, 1)
    lag = asked + 1 - slot
    seen = (slot > 0) & (lag >= 0)
    if rule.mask is not None:
        seen = seen & rule.mask.sees(asked, slot - 1)
    held = there["keys"]
    if rule.rotary is not None and rule.positions == "kept":  # the same until the next eviction
        held = memory.renumbered(held, there["slot"], position[:, -1])
    if rule.plain and not policy.statistics:  # nobody asks for the weights
        keys, values = held.transpose(1, 2), there["values"].transpose(1, 2)
        group = q.shape[2] // heads
        return attended(q.to(dtype), keys, values, memory, seen.repeat_interleave(group, 1)).to(out_dtype), new
    asking = {control.name: controls[control.name] for control in memory.read_controls}
    out, weights = respond(rule, q.to(dtype), held, there["values"], seen, lag, position, asking)

    if policy.statistics:
        before = {name: there[f"statistic.{name}"].detach() for name in policy.statistics}
        weights = over_group(policy, weights.detach(), number).to(before[policy.statistics[0]].dtype)
        told = policy.observe_several(before, weights, there["slot"] - 1, asked)
        empty = new["slot"].shape[-1] - used
        filled = {f"statistic.{name}": F.pad(told[name], (0, empty)) for name in policy.statistics}
        new = new.successor(**new.entries | filled)
    return out.to(out_dtype), new
