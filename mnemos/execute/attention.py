"""Key-value memories: scaled dot product attention over the kept entries."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.request import Request
from mnemos.memory import Controls, Everything, KVMemory, Read, Window
from mnemos.memory.places import ring_place
from mnemos.memory.rotary import rotate
from mnemos.state import State


class FullAttention:
    """Every token attends to all before it."""

    name = "full attention"
    summary = "one call of scaled dot product attention over all entries; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, KVMemory)) is not None:
            return other
        reason = declines_unless_plain(memory.read_rule)
        if reason is None and not isinstance(memory.retain, Everything):
            return "the memory does not keep everything"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        pairs = request.batch * request.heads * request.length * request.length / 2
        return pairs * 2 * (request.key_dim + request.value_dim)

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
        q, position, after = all_appended(memory, q, k, v, state, lengths)
        keys, values, slot = after["keys"], after["values"], after["slot"]
        seen = None if keys.shape[1] == q.shape[1] else _seen(position, slot, None)
        return attended(q, keys, values, memory, seen).to(v.dtype), after


class WindowedAttention:
    """Every token attends to the last few before it and to the sinks, block by block."""

    name = "windowed attention"
    summary = "blocks of queries against the keys their windows reach, sinks beside them; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, KVMemory)) is not None:
            return other
        reason = declines_unless_plain(memory.read_rule)
        if reason is None and not isinstance(memory.retain, Window):
            return "what the memory keeps is not a window"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        assert isinstance(memory.retain, Window)
        reach = 2 * memory.retain.size + memory.retain.sinks
        pairs = request.batch * request.heads * request.length * min(reach, request.length)
        return float(pairs * 2 * (request.key_dim + request.value_dim))

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
        window, length, count = memory.retain, q.shape[1], state["count"]
        batch, dtype = q.shape[0], state["keys"].dtype
        position = count[:, None] + torch.arange(length, device=q.device)
        renumbered = window.sinks > 0 and memory.read_rule.rotary is not None and memory.read_rule.positions == "kept"
        capped = q
        if memory.read_rule.rotary is not None:
            if renumbered:  # a sink's distance is counted within the kept entries
                capped = rotate(q, position.clamp(max=window.size + window.sinks - 1), memory.read_rule.rotary)
            q, k = (rotate(x, position, memory.read_rule.rotary) for x in (q, k))
        new_slot = new_slots(position, lengths)
        keys, values, slot = unrolled(window, state, k.to(dtype), v.to(dtype), new_slot)
        after = stored_in_ring(window, state, k.to(dtype), v.to(dtype), new_slot, lengths)
        band = torch.where(slot > window.sinks, slot, 0)  # sinks are not read twice
        block = min(window.size, length)
        blocks = -(-length // block)
        missing = blocks * block - length
        padded = [F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing)) for x in (q, capped, keys, values)]
        query, far = (x.unflatten(1, (blocks, block)).flatten(0, 1) for x in padded[:2])
        span = window.size + block
        near_keys, near_values = (x.unfold(1, span, block).movedim(-1, 2).flatten(0, 1) for x in padded[2:])
        asked = F.pad(position, (0, missing)).view(batch * blocks, block)
        seen = _seen(asked, F.pad(band, (0, missing)).unfold(1, span, block).flatten(0, 1), window.size)

        if window.sinks:
            first = after["slot"][:, : window.sinks].repeat_interleave(blocks, 0)
            seen = torch.cat([_seen(asked, first, None), seen], -1)
            sink_keys, sink_values = (
                after[name][:, : window.sinks].repeat_interleave(blocks, 0) for name in ("keys", "values")
            )
            near_values = torch.cat([sink_values, near_values], 1)
            if not renumbered:
                near_keys = torch.cat([sink_keys, near_keys], 1)
            else:  # two rotations of the query in one product: channels side by side, zeros where they do not meet
                query = torch.cat([far, query], -1)
                near_keys = torch.cat(
                    [F.pad(sink_keys, (0, sink_keys.shape[-1])), F.pad(near_keys, (near_keys.shape[-1], 0))],
                    1,
                )
        out = attended(query, near_keys, near_values, memory, seen, k.shape[-1])
        return out.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :length].to(v.dtype), after


def declines_unless_plain(rule: Read) -> str | None:
    """The reasons of algorithms that can do no more than softmax attention."""
    if not rule.plain:
        return f"it reads by {type(rule).__name__}, not by the softmax average alone"
    return None if rule.mask is None else f"it looks at the entries that {rule.mask} lets through, not at all"


def all_appended(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, Tensor, State]:
    """The queries at their positions, those positions (B, T), and the state with all new entries behind the old."""
    count, length = state["count"], q.shape[1]
    position = count[:, None] + torch.arange(length, device=q.device)
    if memory.read_rule.rotary is not None:
        q, k = (rotate(x, position, memory.read_rule.rotary) for x in (q, k))
    after = state.successor(
        keys=torch.cat([state["keys"], k.to(state["keys"].dtype)], 1),
        values=torch.cat([state["values"], v.to(state["values"].dtype)], 1),
        slot=torch.cat([state["slot"], new_slots(position, lengths)], 1),
        count=count + (length if lengths is None else lengths),
    )
    return q, position, after


def unrolled(window: Window, state: State, k: Tensor, v: Tensor, new_slot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values (B, size + T, H, .) and slots (B, size + T) of the recent entries in the order of time, then the new
    ones; the sinks are left out of the recent, empty places have slot 0."""
    recent = state["count"][:, None] + torch.arange(-window.size, 0, device=k.device)
    known = recent >= window.sinks
    place = ring_place(window, recent.clamp(min=window.sinks))
    keys = torch.cat([_at(state["keys"], place), k], 1)
    values = torch.cat([_at(state["values"], place), v], 1)
    return keys, values, torch.cat([torch.where(known, state["slot"].gather(1, place), 0), new_slot], 1)


def new_slots(position: Tensor, lengths: Tensor | None) -> Tensor:
    """position + 1 (B, T), or 0 for padding."""
    if lengths is None:
        return position + 1
    real = torch.arange(position.shape[1], device=position.device) < lengths[:, None]
    return torch.where(real, position + 1, 0)


def _seen(position: Tensor, slot: Tensor, size: int | None) -> Tensor:
    """Which entries (B, N), given by slot = position + 1 or 0, the queries (B, T) see: (B, 1, T, N)."""
    distance = position[:, :, None] + 1 - slot[:, None]
    seen = (slot > 0)[:, None] & (distance >= 0)
    return (seen if size is None else seen & (distance < size))[:, None]


def attended(
    q: Tensor, keys: Tensor, values: Tensor, memory: KVMemory, seen: Tensor | None, key_dim: int | None = None
) -> Tensor:
    """Softmax attention as `memory` reads; causal where `seen` is None."""
    scale = memory.read_rule.scale or 1 / math.sqrt(key_dim or q.shape[-1])
    return softmax_attention(q, keys, values, scale, seen)


def softmax_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float, seen: Tensor | None) -> Tensor:
    """(B, T, heads, V) for q (B, T, heads, K), keys and values (B, N, H, .), seen (B, 1, T, N) or None for causal.
    Values are filled up to the keys' width for the fast kernels."""
    q, keys, values = (x.transpose(1, 2) for x in (q.to(keys.dtype), keys, values))
    value_dim, width = values.shape[-1], q.shape[-1]
    if value_dim < width:
        values = F.pad(values, (0, width - value_dim))
    if seen is not None:  # a row that sees nothing (padding) must not become NaN, nor its gradient
        seen = seen | ~seen.any(-1, keepdim=True)
    out = F.scaled_dot_product_attention(
        q, keys, values, seen, is_causal=seen is None, scale=scale, enable_gqa=q.shape[1] != keys.shape[1]
    )
    return out[..., :value_dim].transpose(1, 2)


def _at(x: Tensor, place: Tensor) -> Tensor:
    """x (B, N, H, K) at places (B, M)."""
    return x.gather(1, place[:, :, None, None].expand(-1, -1, *x.shape[2:]))


def stored_in_ring(window: Window, state: State, k: Tensor, v: Tensor, slot: Tensor, lengths: Tensor | None) -> State:
    """The state after the new entries: each place takes the last entry that belongs there."""
    length, count = k.shape[1], state["count"]
    end = count + (length if lengths is None else lengths)
    place = torch.arange(window.size + window.sinks, device=k.device)
    # The latest position at or before the end that is stored at each place; a sink's place has one only.
    latest = end[:, None] - 1 - (end[:, None] - 1 - place) % window.size
    latest = torch.where(place < window.sinks, place, latest)
    source = latest - count[:, None]
    fresh = (source >= 0) & (latest < end[:, None]) & (latest >= window.sinks * (place >= window.sinks))
    source = source.clamp(0, length - 1)
    return state.successor(
        keys=torch.where(fresh[:, :, None, None], _at(k, source), state["keys"]),
        values=torch.where(fresh[:, :, None, None], _at(v, source), state["values"]),
        slot=torch.where(fresh, slot.gather(1, source), state["slot"]),
        count=end,
    )
