"""Landmark attention over everything: landmarks first, then whole blocks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnemos.execute.attention import all_appended
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.query_blocks import QueryBlocks
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, Everything, KVMemory, Landmark
from mnemos.memory.heads import fold, unfold
from mnemos.memory.read.base import highest
from mnemos.memory.rotary import rotate_each
from mnemos.state import State

BLOCK = 64

MANY = 64
"""So many times the entries that are read must be there for gathering them to be faster than looking at all."""


class LandmarkBlocks:
    """Where a row's entries are all the tokens from the first one on, a block is a row of a table, and the softmax
    within blocks one along its axis. Where blocks are far more than `top`, landmarks are scored by themselves, and
    only the blocks chosen are gathered. Rows with gaps or at different places run as query blocks."""

    name = "landmark blocks"
    summary = "blocks of queries against landmarks and the table of blocks, or against the blocks chosen alone; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, KVMemory)) is not None:
            return other
        if not isinstance(memory.read_rule, Landmark):
            return "the memory does not read by landmarks"
        if not isinstance(memory.retain, Everything):
            return "the memory does not keep everything, and blocks may have gaps"
        return None if memory.read_rule.mask is None else "a mask may hide tokens of a block"

    def flops(self, memory: Any, request: Request) -> float:
        rule, width = memory.read_rule, request.key_dim + request.value_dim
        read = request.length / 2
        if rule.top is not None and _gathers(rule, request.length):
            read = min(read, request.length / 2 / (rule.block + 1) + (rule.top + 1) * (rule.block + 1))
        return 2.0 * request.batch * request.heads * request.length * read * width

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
        old, length = state["slot"].shape[1], q.shape[1]
        plain = not torch.compiler.is_compiling() and bool((state["count"] == old).all())
        if not plain or not bool((state["slot"] == torch.arange(1, old + 1, device=q.device)).all()):
            return QueryBlocks().run(memory, q, k, v, controls, state, lengths)
        rule: Landmark = memory.read_rule
        q, _, after = all_appended(memory, q, k, v, state, lengths)
        heads, size, gathers = k.shape[2], rule.block + 1, _gathers(rule, old + length)
        table = _table(rule, after["keys"].transpose(1, 2), after["values"].transpose(1, 2))
        again = recomputing(q.shape[0] * q.shape[2] * length)
        outputs = []
        for start in range(0, length, BLOCK):
            rows = slice(start, min(start + BLOCK, length))
            first, last = (old + start) // size, (old + rows.stop - 1) // size
            place = torch.arange(old + start, old + rows.stop, device=q.device).repeat(q.shape[2] // heads)
            near = slice(first * size, old + rows.stop)
            asked = fold(q[:, rows].to(table.keys.dtype), heads)
            inputs = [asked, table.keys[:, :, near], table.values[:, :, near]]
            inputs += [x[:, :, :last] for x in (table.marks, table.block_keys, table.block_values)]

            def work(*inputs: Tensor, place: Tensor = place, near: slice = near) -> tuple[Tensor, ...]:
                return (_responses(rule, gathers, place, near.start, *inputs),)

            (out,) = recomputed(work, *inputs) if again else work(*inputs)
            outputs.append(unfold(out, rows.stop - start))
        return torch.cat(outputs, 1).to(v.dtype), after


class Table(NamedTuple):
    """keys, values (B, H, N, .); of all whole blocks the landmarks' keys (B, H, C, K) and the ordinary tokens' keys and
    values (B, H, C, block, .). With stingy positions keys are turned by their places within their blocks alone."""

    keys: Tensor
    values: Tensor
    marks: Tensor
    block_keys: Tensor
    block_values: Tensor


def _gathers(rule: Landmark, entries: int) -> bool:
    """Whether chosen blocks are gathered, among so many entries."""
    if rule.top is None:
        return False
    return rule.positions == "stingy" or entries > MANY * rule.top * (rule.block + 1)


def _table(rule: Landmark, keys: Tensor, values: Tensor) -> Table:
    size, number = rule.block + 1, keys.shape[2] // (rule.block + 1)
    if rule.positions == "stingy":
        assert rule.rotary is not None
        position = torch.arange(keys.shape[2], device=keys.device)
        keys = rotate_each(keys, -size * torch.div(position, size, rounding_mode="floor"), rule.rotary)
    by_block, block_values = (x[:, :, : number * size].unflatten(2, (number, size)) for x in (keys, values))
    return Table(keys, values, by_block[..., -1, :], by_block[..., :-1, :], block_values[..., :-1, :])


def _responses(
    rule: Landmark,
    gathers: bool,
    place: Tensor,
    begin: int,
    q: Tensor,
    near_keys: Tensor,
    near_values: Tensor,
    marks: Tensor,
    block_keys: Tensor,
    block_values: Tensor,
) -> Tensor:
    """Answers (B, H, n, V) to queries q (B, H, n, K) at positions `place` (n,), whose own blocks are among the entries
    from `begin` on; the blocks before the last of those are in the table."""
    size, number = rule.block + 1, marks.shape[2]
    scale, wide = rule.scale or 1 / math.sqrt(q.shape[-1]), torch.float64 if q.dtype == torch.float64 else torch.float32
    own = torch.div(place, size, rounding_mode="floor")[:, None]
    versions = [q]
    if rule.positions == "stingy":
        assert rule.rotary is not None and rule.top is not None
        q = rotate_each(q, -size * own[:, 0], rule.rotary)
        apart = [torch.tensor(size * back, device=q.device) for back in range(1, rule.top + 2)]
        versions = [rotate_each(q, distance, rule.rotary) for distance in apart]

    def scores(asked: Tensor, keys: Tensor) -> Tensor:
        return (scale * (asked @ keys)).to(wide)

    at = torch.arange(begin, begin + near_keys.shape[2], device=q.device)
    here = (torch.div(at, size, rounding_mode="floor") == own) & (at <= place[:, None]) & (at % size != rule.block)
    beside = scores(q, near_keys.mT).masked_fill(~here, -torch.inf)
    if not number:
        return beside.softmax(-1).to(q.dtype) @ near_values
    blocks = torch.arange(number, device=q.device)
    pointing = (blocks < own).expand(*q.shape[:2], -1, -1)  # (B, H, n, C)
    told = scores(versions[0], marks.mT)
    for back, asked in enumerate(versions[1:], 2):
        told = torch.where(own - blocks >= back, scores(asked, marks.mT), told)
    if rule.top is not None:
        pointing = highest(told, pointing, (number - 1 - blocks)[None, None, None], rule.top)
    if not gathers:
        first = torch.cat([told.masked_fill(~pointing, -torch.inf), beside], -1).softmax(-1)
        of_blocks, of_near = first.split([number, near_keys.shape[2]], -1)
        within = scores(q, block_keys.flatten(2, 3).mT).unflatten(-1, (number, rule.block)).softmax(-1)
        weights = (within * of_blocks[..., None]).flatten(-2).to(q.dtype)
        return weights @ block_values.flatten(2, 3) + of_near.to(q.dtype) @ near_values

    assert rule.top is not None
    newest = torch.where(pointing, blocks, -1).topk(min(rule.top, number), -1).values  # (B, H, n, R), -1 where none is
    there, index = newest >= 0, newest.clamp(min=0)
    keys, values, found = (_gathered(x, index) for x in (block_keys, block_values, marks[..., None, :]))
    asked = torch.stack((versions * index.shape[-1])[: index.shape[-1]], 3)[..., None]  # (B, H, n, R, K, 1)
    first = torch.cat([scores(found, asked)[..., 0, 0].masked_fill(~there, -torch.inf), beside], -1).softmax(-1)
    of_blocks, of_near = first.split([index.shape[-1], near_keys.shape[2]], -1)
    weights = scores(keys, asked)[..., 0].softmax(-1) * of_blocks[..., None]
    return (weights.to(q.dtype)[..., None, :] @ values)[..., 0, :].sum(3) + of_near.to(q.dtype) @ near_values


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """x (B, H, C, block, .) at index (B, H, n, R): (B, H, n, R, block, .)."""
    batch, heads, number = x.shape[:3]
    lead = torch.arange(batch * heads, device=x.device).view(batch, heads, 1, 1) * number
    return x.flatten(0, 2).index_select(0, (lead + index).flatten()).unflatten(0, index.shape)
