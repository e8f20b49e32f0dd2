"""Log-linear memories: masked products inside chunks, a Fenwick tree of states from chunk to chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scores
from mnemos.execute.request import Request
from mnemos.execute.triangular import unit_lower_inverse
from mnemos.memory import Controls, Memory
from mnemos.memory.log_linear import LogLinear, bit_length
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks

DIGITS = 5
SIZE = 1 << DIGITS
"""Tokens a chunk: a power of two, so that a chunk is a bucket."""


@dataclass(frozen=True)
class _Chunks:
    """What the base memory does within each chunk of C tokens, for any state S before it, (B, H, N, ...):

    o_t = S asking_t + sum_s pairs_ts v_s            S after = S transition + sum_s v_s wrote_s^T
    """

    asking: Tensor
    pairs: Tensor
    transition: Tensor
    wrote: Tensor


class Fenwick:
    """Token s is in the bucket of level bit_length(t xor s) at t. Within a chunk that starts at a multiple of its size,
    that depends on places in the chunk only, so level weights are a mask on the base memory's products. All earlier
    buckets stay as they are while the chunk lasts: each is one state, read with one weight a token.
    """

    name = "fenwick chunks"
    summary = "masked matrix products inside chunks, a state for each level from chunk to chunk; exact, T log T"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, LogLinear)

    def flops(self, memory: Any, request: Request) -> float:
        key, value = request.key_dim, request.value_dim
        tokens = request.batch * request.heads * request.length
        levels = min(memory.levels, max(request.length, 1).bit_length() + 1)
        above = max(levels - DIGITS - 1, 1)
        inside = 2 * SIZE * (key + value)
        carried = 2 * key * value * (above + 1)
        if memory.corrects:
            inside += 2 * SIZE * (SIZE + 3 * key)
            carried += 2 * key * key * value * above / SIZE
        return float(tokens * (inside + carried))

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
        count, length, compiling = state["count"], q.shape[1], torch.compiler.is_compiling()
        held, dtype, device = state["matrix"], state["matrix"].dtype, q.device
        levels = memory.levels
        if not compiling and not held.requires_grad:  # the levels that any token reaches
            levels = min(levels, (int(count.max()) + length).bit_length() + 1)
        phase = count % SIZE
        inputs = {"q": q, "k": k, "v": v, **controls}
        aligned = not compiling and not bool(phase.any())
        if aligned:
            live = live_tokens(length, lengths, SIZE, device)
        else:  # rows stand at different places of a chunk: shift each one to where its chunk began
            moved, real = shift_to_chunks(list(inputs.values()), phase, lengths, SIZE)
            inputs = dict(zip(inputs, moved, strict=True))
            live = real.view(len(phase), 1, -1, SIZE)
        queries, keys, values = (cut(inputs.pop(name).to(dtype), SIZE) for name in ("q", "k", "v"))
        cut_up = cut_controls(inputs, SIZE, dtype)
        weights = cut_up.pop("level")[..., :levels]  # (B, H, N, C, levels)
        chunks = _within(memory.memory, queries, keys, cut_up, live)

        place = torch.arange(SIZE, device=device)
        inner = _one_hot(bit_length(place[:, None] ^ place, levels), levels, dtype)  # (C, C, levels)
        out = (chunks.pairs * torch.einsum("bhntl,tsl->bhnts", weights, inner)) @ values
        added = values.mT @ chunks.wrote

        lived = torch.full_like(count, length) if lengths is None else lengths
        last, begin = count + lived - 1, count - phase
        ending = torch.where(lived > 0, (last - begin) // SIZE, -1)  # the chunk that a row ends in
        ends = set(range(values.shape[2])) if compiling else set(ending.tolist())
        base = min(DIGITS + 1, levels - 1)  # the lowest level of anything before the chunk, once it has begun
        final, buckets = held[:, :, :levels], held[:, :, :levels]
        since, lowest = (count - 1).clamp(min=0), 0
        reads = []
        pieces = (x.unbind(2) for x in (weights, chunks.asking, chunks.transition, added))
        for n, (here, asking, transition, written) in enumerate(zip(*pieces, strict=True)):
            # Where level l begins for the token `since`. It is at least l: an empty one waits for its next tokens.
            level = torch.arange(lowest, levels, device=device)
            oldest = (since[:, None] >> level) << level

            def now(t: Tensor, oldest: Tensor = oldest, level: Tensor = level) -> Tensor:
                """(B, ...) -> (B, ..., buckets): the level of each bucket at token t."""
                lead = (len(t), *[1] * (t.ndim - 1), -1)
                return torch.maximum(bit_length(t[..., None] ^ oldest.view(lead), levels), level)

            if n == 0:
                index = now(begin[:, None] + place)[:, None]
                by_bucket = here.gather(-1, index.expand(-1, here.shape[1], -1, -1))
            else:
                by_bucket = here[..., base:]
            asked = (by_bucket[..., None] * asking[..., None, :]).flatten(-2)  # (B, H, C, buckets * K)
            reads.append(asked @ buckets.transpose(-1, -2).flatten(2, 3))

            transition = transition[:, :, None]
            buckets = buckets @ transition if memory.corrects else buckets * transition
            start, after = begin + n * SIZE, begin + (n + 1) * SIZE
            if n in ends:
                told = _one_hot(now(last), levels, dtype)
                split = _one_hot(bit_length(last[:, None] ^ (start[:, None] + place), levels), levels, dtype)[
                    ..., : base + 1
                ]
                new = (values[:, :, n, None].mT * split.mT[:, None, :, None]) @ chunks.wrote[:, :, n, None]
                new = F.pad(new, (0, 0, 0, 0, 0, levels - base - 1))
                new = new + torch.einsum("bjl,bhjvk->bhlvk", told, buckets)
                final = torch.where((ending == n)[:, None, None, None, None], new, final)
            if n + 1 < values.shape[2]:
                told = _one_hot(now(after) - base, levels - base, dtype)
                joining = _one_hot(bit_length(after ^ (after - 1), levels) - base, levels - base, dtype)
                buckets = torch.einsum("bjl,bhjvk->bhlvk", told, buckets)
                buckets = buckets + joining[:, None, :, None, None] * written[:, :, None]
                since, lowest = after, base

        out = join(out + torch.stack(reads, 2), length if aligned else values.shape[2] * SIZE)
        if not aligned:
            out = shift_back(out, phase, length)
        of_last = controls["level"].to(dtype).take_along_dim((lived - 1).clamp(min=0)[:, None, None, None], 1)[:, 0]
        weight = torch.where((lived > 0)[:, None, None], of_last, state["level"])
        matrix = torch.cat([final, held[:, :, levels:]], 2)
        return out.to(v.dtype), state.successor(matrix=matrix, level=weight, count=count + lived)


def _within(base: Memory, queries: Tensor, keys: Tensor, controls: dict[str, Tensor], live: Tensor | None) -> _Chunks:
    """The base memory within chunks (B, H, N, C, ...), before any level is weighted."""
    c = coefficients(base, controls, live, keys)
    asking = scale_tokens(queries, c.carry[..., 1:])
    pairs = scores(queries, keys, c.write[..., 1:, :])
    wrote = scale_tokens(keys, c.write[..., -1, :])
    carry = c.carry[..., -1][..., None]
    if base.objective.slope_kind != "identity":
        return _Chunks(asking, pairs, carry, wrote)
    # Residuals r = from_state S^T - solve v, as in the delta rule without levels; here the two parts go apart.
    probing = keys
    if getattr(base.learner, "anchor", None) == "retained" and "decay" in controls:
        probing = keys * controls["decay"][..., None]
    solve = unit_lower_inverse(scores(probing, keys, c.write[..., :-1, :]))
    from_state = solve @ scale_tokens(probing, c.carry[..., :-1])
    eye = torch.eye(keys.shape[-1], dtype=keys.dtype, device=keys.device)
    return _Chunks(
        asking=asking - pairs @ from_state,
        pairs=pairs @ solve,
        transition=carry * eye - from_state.mT @ wrote,
        wrote=solve.mT @ wrote,
    )


def _one_hot(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(...) -> (..., size); an index below 0 counts as 0."""
    return (index.clamp(min=0)[..., None] == torch.arange(size, device=index.device)).to(dtype)
