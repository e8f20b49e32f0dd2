"""Any read of a memory that keeps by position: block by block of queries, against the entries they look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.attention import all_appended, attended, new_slots, stored_in_ring, unrolled
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, Everything, KVMemory, Mask, Window
from mnemos.memory.heads import respond
from mnemos.memory.rotary import rotate
from mnemos.state import State

BLOCK = 64


class QueryBlocks:
    """For each block of queries the read rule's own `respond`, or one scaled dot product attention where it is plain.
    Entries that no query of a block looks at are left out."""

    name = "query blocks"
    summary = "blocks of queries against the entries they look at, by the read rule's own formula; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, KVMemory)) is not None:
            return other
        rule, retain = memory.read_rule, memory.retain
        if not isinstance(retain, Everything | Window):
            return "what is kept depends on what was read"
        if isinstance(retain, Window) and retain.sinks and rule.rotary is not None and rule.positions == "kept":
            return "sinks at positions within the window stand elsewhere for every query"
        return None

    def flops(self, memory: Any, request: Request) -> float:
        reach, mask = memory.retain.capacity or request.length / 2, memory.read_rule.mask
        if mask is not None:
            last = mask.candidates(max(request.length - BLOCK, 0), request.length - 1, torch.device("cpu"))
            reach = reach if last is None else min(reach, len(last))
        pairs = request.batch * request.heads * request.length * min(reach, request.length)
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
        out_dtype, v = v.dtype, memory.packed(v, controls)
        controls = {control.name: controls[control.name] for control in memory.read_controls}
        q, position, entries, after = _entries(memory, q, k, v, state, lengths)
        keys, values, slot = entries
        length, names, mask = q.shape[1], list(controls), memory.read_rule.mask
        blocks = [slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]
        found: list[Tensor] | None = None
        pieces: list[tuple[Tensor, ...]] | None = None
        if not torch.compiler.is_compiling():
            if bool((slot == slot[:1]).all() & (position == position[:1]).all()):
                slot, position = slot[:1], position[:1]  # what is seen is the same in all rows
            if mask is not None:
                found = _looked_at(memory, mask, blocks, position, slot)
                if len(slot) == 1 and torch.is_grad_enabled():  # all pieces together make one sum of their gradients
                    sizes, every = [len(these) for these in found], torch.cat(found)
                    pieces = [x.index_select(1, every).split(sizes, 1) for x in (keys, values)]
        again = recomputing(q.shape[0] * q.shape[2] * length)
        outputs = []
        for i, rows in enumerate(blocks):
            these = _columns(memory, rows, slot.shape[1] - length, q.device) if found is None else found[i]
            near = [keys[:, these], values[:, these]] if pieces is None else [piece[i] for piece in pieces]
            lag = position[:, rows, None] + 1 - slot[:, None, these]
            seen = _seen(memory, position[:, rows], slot[:, these], lag)
            inputs = [q[:, rows], *near, *(controls[name][:, rows] for name in names)]

            def work(
                *inputs: Tensor, seen: Tensor = seen, lag: Tensor = lag, asked: Tensor = position[:, rows]
            ) -> tuple[Tensor, ...]:
                return (_responses(memory, dict(zip(names, inputs[3:], strict=True)), seen, lag, asked, *inputs[:3]),)

            outputs += recomputed(work, *inputs) if again else work(*inputs)
        return torch.cat(outputs, 1).to(out_dtype), after


def _entries(
    memory: KVMemory, q: Tensor, k: Tensor, v: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor], State]:
    """The queries at their positions, those positions, the keys, values and slots that they may look at (those of the
    new tokens last, sinks first), and the state after."""
    retain = memory.retain
    if not isinstance(retain, Window):
        q, position, after = all_appended(memory, q, k, v, state, lengths)
        return q, position, (after["keys"], after["values"], after["slot"]), after
    dtype = state["keys"].dtype
    position = state["count"][:, None] + torch.arange(q.shape[1], device=q.device)
    if memory.read_rule.rotary is not None:
        q, k = (rotate(x, position, memory.read_rule.rotary) for x in (q, k))
    slots = new_slots(position, lengths)
    keys, values, slot = unrolled(retain, state, k.to(dtype), v.to(dtype), slots)
    after = stored_in_ring(retain, state, k.to(dtype), v.to(dtype), slots, lengths)
    if retain.sinks:
        first = {name: after[name][:, : retain.sinks] for name in ("keys", "values", "slot")}
        slot = torch.cat([first["slot"], torch.where(slot > retain.sinks, slot, 0)], 1)  # none is read twice
        keys, values = torch.cat([first["keys"], keys], 1), torch.cat([first["values"], values], 1)
    return q, position, (keys, values, slot), after


def _looked_at(memory: KVMemory, mask: Mask, blocks: list[slice], position: Tensor, slot: Tensor) -> list[Tensor]:
    """For each block of queries the entries that some query of it looks at, and perhaps a few more."""
    found = []
    begin = place = None
    if len(slot) == 1:  # all rows alike
        begin = int(position[0, 0])
        place = torch.full((max(begin + position.shape[1], int(slot.max())) + 1,), -1, device=slot.device)
        place[slot[0]] = torch.arange(slot.shape[1], device=slot.device)
    for rows in blocks:
        if begin is not None and place is not None:
            candidates = mask.candidates(begin + rows.start, begin + rows.stop - 1, slot.device)
            if candidates is not None:
                at = place[candidates + 1]
                found.append(at[at >= 0])
                continue
        these = _columns(memory, rows, slot.shape[1] - position.shape[1], slot.device)
        lag = position[:, rows, None] + 1 - slot[:, None, these]
        found.append(these[_seen(memory, position[:, rows], slot[:, these], lag).flatten(0, 1).any(0)])
    return found


def _columns(memory: KVMemory, rows: slice, old: int, device: torch.device) -> Tensor:
    """The entries that the new tokens in `rows` can see, of `old` earlier ones and then the new ones."""
    retain = memory.retain
    if not isinstance(retain, Window):
        return torch.arange(old + rows.stop, device=device)
    recent = torch.arange(retain.sinks + rows.start + 1, old + rows.stop, device=device)
    return torch.cat([torch.arange(retain.sinks, device=device), recent])


def _seen(memory: KVMemory, position: Tensor, slot: Tensor, lag: Tensor) -> Tensor:
    """Which entries (B, M), given by slot = position + 1 or 0, the queries (B, n) see: (B, n, M)."""
    retain, mask = memory.retain, memory.read_rule.mask
    seen = (slot > 0)[:, None] & (lag >= 0)
    if isinstance(retain, Window):
        seen = seen & ((lag < retain.size) | (slot <= retain.sinks)[:, None])
    return seen if mask is None else seen & mask.sees(position[:, :, None], slot[:, None] - 1)


def _responses(
    memory: KVMemory,
    controls: Controls,
    seen: Tensor,
    lag: Tensor,
    position: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Answers (B, n, heads, V) to q (B, n, heads, K) at `position` (B or 1, n) from keys and values (B, M, H, .)."""
    if memory.read_rule.plain:
        return attended(q, keys, values, memory, seen[:, None])
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    out, _ = respond(memory.read_rule, q, keys, values, seen[:, None], lag[:, None], position, controls)
    return out
