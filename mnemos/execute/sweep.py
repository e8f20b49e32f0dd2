"""The part of every chunk form that is the same: states carried from chunk to chunk, hand-differentiated."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnemos.execute.once import differentiable_once
from mnemos.execute.precision import own_precision
from mnemos.execute.triangular import unit_lower_inverse


class Chunks(NamedTuple):
    """N chunks of C tokens of M rows and heads, as plain matrices. A state Z (M, V, S) holds the weights and, side by
    side with them in S, their momentum if there is any.

        r_n = (I + lower_n)^-1 (asks_n Z_n^T - values_n)        (without `asks` and `lower`: r_n = -values_n)
        o_n = readers_n Z_n^T - inside_n r_n
        Z_n+1 = Z_n * keep_n - r_n^T writers_n,   and to the weights is added momentum * push_n

    Shapes: values (N, M, C, V); asks, readers, writers (N, M, C, S); lower, inside (N, M, C, C); keep (N, M, 1, S) or
    (N, M, 1, 1); push (N, M, 1, S/2), (N, M, 1, 1) or None where there is no momentum.
    """

    values: Tensor
    inside: Tensor
    readers: Tensor
    writers: Tensor
    keep: Tensor
    asks: Tensor | None = None
    lower: Tensor | None = None
    push: Tensor | None = None


def sweep(chunks: Chunks, state: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (N, M, C, V) and the state after the last chunk."""
    out, last = _Sweep.apply(state, *chunks)  # pyright: ignore[reportGeneralTypeIssues]
    return out, last


class _Sweep(torch.autograd.Function):
    """Backwards, the same sweep runs from the end; everything else is one product for all chunks. Autograd would keep
    an intermediate for each operation and fill full-length gradients for each slice."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, *matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        c = Chunks(*matrices)  # pyright: ignore[reportArgumentType]
        number = len(c.values)
        if c.asks is None or c.lower is None:
            solve = from_state = None
            residuals = c.values.neg()
        else:
            solve = unit_lower_inverse(c.lower)
            from_state = _bmm(solve, c.asks)
            residuals = _bmm(solve, c.values)
        states = state.new_empty(number + 1, *state.shape)
        states[0] = state
        half = state.shape[-1] // 2
        for n in range(number):
            before, after = states[n], states[n + 1]
            if from_state is not None:
                residuals[n].baddbmm_(from_state[n], before.mT, beta=-1)
            torch.mul(before, c.keep[n], out=after)
            if c.push is not None:
                after[..., :half].addcmul_(before[..., half:], c.push[n])
            after.baddbmm_(residuals[n].mT, c.writers[n], alpha=-1)
        out = _bmm(c.readers, states[:-1].mT)
        out.flatten(0, 1).baddbmm_(c.inside.flatten(0, 1), residuals.flatten(0, 1), alpha=-1)
        ctx.save_for_backward(c.inside, c.readers, c.writers, c.keep, c.push, solve, from_state, states, residuals)
        return out, states[-1].clone()

    @staticmethod
    @differentiable_once
    @own_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inside, readers, writers, keep, push, solve, from_state, states, residuals = ctx.saved_tensors
        by_out, by_next = (g.contiguous() for g in grads)
        half = by_next.shape[-1] // 2
        by_residuals = _bmm(inside.mT, by_out).neg_()
        by_states = _bmm(by_out.mT, readers)
        by_after = torch.empty_like(by_states)
        for n in reversed(range(len(by_out))):
            by_after[n] = by_next
            by_residuals[n].baddbmm_(writers[n], by_next.mT, alpha=-1)
            by_states[n].addcmul_(by_next, keep[n])
            if push is not None:
                by_states[n][..., half:].addcmul_(by_next[..., :half], push[n])
            by_next = by_states[n]
            if from_state is not None:
                by_next.baddbmm_(by_residuals[n].mT, from_state[n])
        before = states[:-1]
        by_keep = _summed(by_after * before, keep)
        by_push = None if push is None else _summed(by_after[..., :half] * before[..., half:], push)
        by_inside = _bmm(by_out, residuals.mT).neg_()
        by_readers = _bmm(by_out, before)
        by_writers = _bmm(residuals, by_after).neg_()
        if solve is None:
            by_values, by_asks, by_lower = by_residuals.neg_(), None, None
        else:
            by_right = _bmm(solve.mT, by_residuals)
            by_asks = _bmm(by_right, before)
            by_lower = _bmm(by_right, residuals.mT).neg_()
            by_values = by_right.neg_()
        return by_next, by_values, by_inside, by_readers, by_writers, by_keep, by_asks, by_lower, by_push


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """(N, M, i, j) times (N, M, j, k) in one call."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])


def _summed(x: Tensor, like: Tensor) -> Tensor:
    """The gradient by a factor (N, M, 1, S or 1) that was broadcast to x (N, M, V, S)."""
    return x.sum(-2, keepdim=True) if like.shape[-1] > 1 else x.sum((-2, -1), keepdim=True)
