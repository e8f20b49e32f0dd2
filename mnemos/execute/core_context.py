"""Core contexts: all cores at once, then blocks of queries against cores and recent entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.attention import new_slots, softmax_attention, stored_in_ring, unrolled
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, CoreContext
from mnemos.memory.core_context import with_cores
from mnemos.memory.rotary import rotate
from mnemos.state import State

BLOCK = 64


class CoresAndWindow:
    """The groups that become whole are pooled together; a block of queries is one scaled dot product attention over
    the cores and the entries that its queries reach."""

    name = "cores and window"
    summary = "blocks of queries against the cores of older groups and the recent entries; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, CoreContext)

    def flops(self, memory: Any, request: Request) -> float:
        reach = min(memory.window + memory.group + BLOCK, request.length) + request.length / memory.group / 2
        pairs = request.batch * request.heads * request.length * reach
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
        recent, ring, length = state.child("recent"), memory.ring, q.shape[1]
        count, dtype = recent["count"], recent["keys"].dtype
        position = count[:, None] + torch.arange(length, device=q.device)
        slots = new_slots(position, lengths)
        keys, values, slot = unrolled(ring, recent, k.to(dtype), v.to(dtype), slots)
        after = stored_in_ring(ring, recent, k.to(dtype), v.to(dtype), slots, lengths)
        cores = _cores(memory, state.child("cores"), keys, values, controls["query"].to(dtype), count, after["count"])

        if memory.rotary is not None:
            q = rotate(q, position, memory.rotary)
            # The entries stand in the order of time; before the beginning there are none.
            keys = rotate(
                keys,
                torch.cat([count[:, None] + torch.arange(-ring.size, 0, device=q.device), position], 1),
                memory.rotary,
            )
        used = memory.cores_seen(position)  # (B, T)
        again = recomputing(q.shape[0] * q.shape[2] * length)
        scale, outputs = memory.scaled_by(q.shape[-1]), []
        numbers = torch.arange(cores["slot"].shape[1], device=q.device)
        for start in range(0, length, BLOCK):
            rows = slice(start, min(start + BLOCK, length))
            columns = slice(start + 1, ring.size + rows.stop)
            several = len(numbers) if torch.compiler.is_compiling() else min(int(used[:, rows].max()), len(numbers))
            at = slot[:, None, columns]
            whole = used[:, rows, None]
            single = (at > whole * memory.group) & (at <= position[:, rows, None] + 1) & (at > 0)
            seen = torch.cat([numbers[:several] < whole, single], -1)
            inputs = [q[:, rows].to(dtype)]
            inputs += [
                torch.cat([cores[n][:, :several], x[:, columns]], 1) for n, x in (("keys", keys), ("values", values))
            ]

            def work(*inputs: Tensor, seen: Tensor = seen) -> tuple[Tensor, ...]:
                asked, near_keys, near_values = inputs
                return (softmax_attention(asked, near_keys, near_values, scale, seen[:, None]),)

            outputs += recomputed(work, *inputs) if again else work(*inputs)
        return torch.cat(outputs, 1).to(v.dtype), state.successor(recent=after, cores=cores)


def _cores(
    memory: CoreContext, cores: State, keys: Tensor, values: Tensor, asked: Tensor, count: Tensor, end: Tensor
) -> State:
    """The cores after all groups that end before `end` (B,). keys, values (B, ring + T, H, .) in the order of time,
    asked (B, T, H, K) the queries of the new tokens, of which the first stands at `count` (B,)."""
    size, group, length = memory.ring.size, memory.group, asked.shape[1]
    candidates = -(-length // group)
    number = (count // group)[:, None] + torch.arange(candidates, device=count.device)
    last = number * group + group - 1
    complete = last < end[:, None]
    if not torch.compiler.is_compiling() and not bool(complete.any()):
        return cores
    index = (last - count[:, None]).clamp(0, length - 1)
    queries = asked.gather(1, index[..., None, None].expand(-1, -1, *asked.shape[2:]))
    member = index[..., None] + size + torch.arange(1 - group, 1, device=count.device)  # (B, C, group)
    rows = torch.arange(len(count), device=count.device)[:, None, None]
    core_keys, core_values = memory.pooled(queries, keys[rows, member], values[rows, member], last)
    held = cores["slot"].shape[1]
    places = held + candidates if torch.compiler.is_compiling() else max(held, int(end.max()) // group)
    return with_cores(cores, {"keys": core_keys, "values": core_values, "slot": last + 1}, number, complete, places)
