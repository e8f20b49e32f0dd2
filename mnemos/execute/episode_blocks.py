"""Memories in episodes: all tokens are written at once, and read block by block of queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.loop import Loop
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, EpisodicMemory
from mnemos.memory.episodic import (
    Found,
    asked_with,
    find,
    read_found,
    received,
    stored,
    table_of,
    write_all,
)
from mnemos.state import State

BLOCK = 64

LISTED = 1 << 24
"""Numbers in the lists of a block, at most."""


class EpisodeBlocks:
    """What is in an episode, and what it received, no longer changes once it can be found. So one table of all episodes
    serves all queries, each of which is shown the part that was finished at its time. Where entries are many, each
    query reads a list of those that it found, and a block of queries is as large as their lists allow."""

    name = "episode blocks"
    summary = "one table of all episodes; blocks of queries against the episodes that they find; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, EpisodicMemory)

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        return tokens * memory.step_flops(request.key_dim, request.value_dim, request.length / 2)

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
        if memory.boundary.refine is not None and torch.compiler.is_compiling():
            return Loop().run(memory, q, k, v, controls, state, lengths)  # which boundaries there are is not known
        written = write_all(memory, state, k, v, controls, lengths)
        entries, length = written.entries, q.shape[1]
        listed = q.shape[0] * q.shape[2] * (q.shape[3] + v.shape[3]) * min(memory.recalled, entries["slot"].shape[1])
        size = max(1, min(BLOCK, LISTED // max(listed, 1)))
        blocks = [slice(start, min(start + size, length)) for start in range(0, length, size)]
        again = recomputing(q.shape[0] * q.shape[2] * length)
        if memory.summary.watches:
            given = [torch.zeros_like(entries["received"])]
            for block in blocks:
                # Padding asks from before the first token, and so looks at nothing.
                position = torch.where(written.live[:, block], written.position[:, block], -1)
                given.append(_received(memory, q[:, block], position, entries, length, block))
            entries["received"] = entries["received"] + torch.stack(given).sum(0)
        table, asked = table_of(memory, entries), asked_with(memory, q, controls)
        queued, outputs = table.queued, []
        for block in blocks:
            live, position = written.live[:, block], written.position[:, block]
            found = find(memory, table, asked[:, block], position, written.current[:, block], queued)
            inputs = [q[:, block], entries["keys"], entries["values"], found.weights]

            def work(*inputs: Tensor, found: Found = found, position: Tensor = position) -> tuple[Tensor, ...]:
                shown = entries | {"keys": inputs[1], "values": inputs[2]}
                weighted = found._replace(weights=inputs[3])
                return (read_found(memory, table, shown, inputs[0], position, weighted),)

            outputs += recomputed(work, *inputs) if again else work(*inputs)
            if memory.recall.contiguous:
                real = torch.where(live[..., None], found.queued, 0)
                queued = torch.maximum(queued, real.amax(1))
        if memory.recall.contiguous:
            entries["queued"] = queued.gather(1, table.place)
        return torch.cat(outputs, 1), stored(memory, state, entries, written.seen)


def _received(
    memory: EpisodicMemory, q: Tensor, position: Tensor, entries: dict[str, Tensor], length: int, block: slice
) -> Tensor:
    """What all entries (B, N) received from the queries of one block."""
    slot, total = entries["slot"], entries["slot"].shape[1]
    columns = slice(0, total - length + block.stop)
    if not torch.compiler.is_compiling():  # the entries in the window of one of the queries
        first = torch.where(position >= 0, position, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
        near = (slot > 0) & (slot + memory.window > first + 1) & (slot <= position.amax(1, keepdim=True) + 1)
        columns = near.any(0).nonzero()[:, 0]
    given = received(memory, q, position, entries["keys"][:, columns], slot[:, columns])
    out = torch.zeros_like(entries["received"])
    out[:, columns] = given
    return out
