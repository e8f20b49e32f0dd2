"""Clustered windows: sorted by cluster, they are one window."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.attention import new_slots, softmax_attention
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.request import Request
from mnemos.memory import ClusteredWindow, Controls
from mnemos.memory.rotary import rotate
from mnemos.state import State

BLOCK = 64


class ClusterOrder:
    """Old entries and new ones of each head are put in order, cluster by cluster and by time within it. There the last
    `size` entries of a token's cluster are its neighbours: windowed attention, block by block."""

    name = "cluster order"
    summary = "entries sorted by cluster, then blocks of queries against the window before them; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, ClusteredWindow)

    def flops(self, memory: Any, request: Request) -> float:
        pairs = request.batch * request.heads * (request.length + memory.clusters * memory.size) * 2 * memory.size
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
        entries, count, length = state.child("entries"), state["count"], q.shape[1]
        dtype, places, out_dtype = entries["keys"].dtype, memory.clusters * memory.size, v.dtype
        position = count[:, None] + torch.arange(length, device=q.device)
        if memory.rotary is not None:
            q, k = (rotate(x, position, memory.rotary) for x in (q, k))
        q, k, v = (x.to(dtype).transpose(1, 2) for x in (q, k, v))  # (B, H, T, .)
        chosen = controls["affinity"].argmax(-1).transpose(1, 2)  # (B, H, T)

        # Everything there is, cluster by cluster and by time; what is no entry goes to a cluster behind the others.
        held = {name: entries[name] for name in ("keys", "values", "slot")}
        if not torch.compiler.is_compiling() and not bool(held["slot"].any()):
            held = {name: x[:, :, :0] for name, x in held.items()}  # nothing yet
        before = held["slot"].shape[2]
        old = torch.arange(before, device=q.device) // memory.size
        slot = torch.cat([held["slot"], new_slots(position, lengths)[:, None].expand_as(chosen)], 2)
        cluster = torch.cat([old.expand_as(held["slot"]), chosen], 2)
        cluster = torch.where(slot > 0, cluster, memory.clusters)
        keys, values = torch.cat([held["keys"], k], 2), torch.cat([held["values"], v], 2)
        number = torch.zeros(*cluster.shape[:2], memory.clusters + 1, dtype=torch.int64, device=q.device)
        number = number.scatter_add(-1, cluster, torch.ones_like(cluster))
        order = slot.argsort(-1)
        order = order.gather(-1, cluster.gather(-1, order).argsort(dim=-1, stable=True))
        begin = (number.cumsum(-1) - number).gather(-1, cluster)
        ordinal = order.argsort(-1) - begin  # which of its cluster's entries each one is

        out = _windowed(memory, F.pad(q, (0, 0, before, 0)), keys, values, cluster, number, ordinal)
        out = out[:, :, before:].transpose(1, 2).to(out_dtype)

        ends = torch.full_like(count, length) if lengths is None else lengths
        real = (torch.arange(length, device=q.device) < ends[:, None])[:, None]
        assigned = state["assigned"].scatter_add(-1, chosen, real.expand_as(chosen).long())
        to_come = number.gather(-1, cluster) - ordinal  # of its cluster, itself included
        within = cluster.clamp(max=memory.clusters - 1)
        place = within * memory.size + (assigned.gather(-1, within) - to_come) % memory.size
        kept = (cluster < memory.clusters) & (to_come <= memory.size)
        place = torch.where(kept, place, places)  # one place more, for all that is dropped
        after: dict[str, Tensor | State] = {}
        for name, x in (("keys", keys), ("values", values), ("slot", slot)):
            index = place if x.ndim == 3 else place[..., None].expand(-1, -1, -1, x.shape[-1])
            empty = torch.zeros(*x.shape[:2], places + 1, *x.shape[3:], dtype=x.dtype, device=x.device)
            after[name] = empty.scatter(2, index, x)[:, :, :places]
        final = chosen.gather(-1, (ends - 1).clamp(min=0)[:, None, None].expand(-1, chosen.shape[1], 1))[..., 0]
        return out, state.successor(
            entries=entries.successor(**after),
            assigned=assigned,
            cluster=torch.where(ends[:, None] > 0, final, state["cluster"]),
            count=count + ends,
        )


def _windowed(
    memory: ClusteredWindow,
    asked: Tensor,
    keys: Tensor,
    values: Tensor,
    cluster: Tensor,
    number: Tensor,
    ordinal: Tensor,
) -> Tensor:
    """Each of asked (B, H, L, K) to the `size` entries of its cluster at and before it. The clusters stand one behind
    the other, each at the beginning of a block: where, does not depend on how many there are to come."""
    size, length = memory.size, asked.shape[2]
    block = min(BLOCK, length)
    blocks, span = -(-length // block) + memory.clusters, size - 1 + block
    filled = (number[..., :-1] + block - 1) // block * block
    begin = F.pad(filled.cumsum(-1) - filled, (0, 1), value=blocks * block)  # what is no entry: one place more
    place = (begin.gather(-1, cluster) + ordinal).clamp(max=blocks * block)
    source = torch.full((*place.shape[:2], blocks * block + 1), length, device=place.device)
    source = source.scatter(-1, place, torch.arange(length, device=place.device).expand_as(place))[..., :-1]

    def laid_out(x: Tensor) -> Tensor:
        """(B, H, L, .) -> (B, H, blocks * block, .), zero where nothing stands."""
        return _taken(F.pad(x, (0, 0, 0, 1)), source)

    def windows(x: Tensor) -> Tensor:
        """(B, H, blocks * block, .) -> (B * H * blocks, span, 1, .)."""
        x = F.pad(x, (0, 0, size - 1, 0)).unfold(2, span, block).movedim(-1, 3)
        return x.flatten(0, 2)[:, :, None]

    own = F.pad(cluster, (0, 1), value=-1).gather(-1, source)
    near = F.pad(own, (size - 1, 0), value=-1).unfold(2, span, block)  # (B, H, blocks, span)
    own = own.unflatten(2, (blocks, block))
    lag = torch.arange(size - 1, span, device=cluster.device)[:, None] - torch.arange(span, device=cluster.device)
    seen = (near[:, :, :, None] == own[..., None]) & (lag >= 0) & (lag < size)
    queries = laid_out(asked).unflatten(2, (blocks, block)).flatten(0, 2)[:, :, None]
    scale = memory.scaled_by(asked.shape[-1])
    out = softmax_attention(
        queries, windows(laid_out(keys)), windows(laid_out(values)), scale, seen.flatten(0, 2)[:, None]
    )
    out = out[:, :, 0].unflatten(0, (*cluster.shape[:2], blocks)).flatten(2, 3)
    return _taken(F.pad(out, (0, 0, 0, 1)), place)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """x (B, H, L, .) at places (B, H, M)."""
    return x.gather(2, order[..., None].expand(-1, -1, -1, x.shape[-1]))
