"""Elementwise recurrences h_t = a_t h_t-1 + b_t, in blocks: about 2 sqrt(T) steps, no division, a backward by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_elementwise
from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State

WIDEST_KEY = 4
"""Above this key_dim, writing down the state of every token costs more than matrix products."""


class DiagonalScan:
    """S_t = momentum_t S_t-1 + rate_t v_t k_t^T and W_t = decay_t * W_t-1 + S_t are scans of their elements."""

    name = "diagonal scan"
    summary = "every element of the state by itself, in blocks of sqrt(T) tokens; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_elementwise(memory)
        if reason is None and request.key_dim > WIDEST_KEY:
            return f"with keys wider than {WIDEST_KEY}, writing down the state of every token costs too much"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        elements = request.batch * request.length * request.heads * request.key_dim * request.value_dim
        return float(elements * (14 if memory.learner.momentum else 9))

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
        weight = state["matrix"]
        dtype, size = weight.dtype, weight.shape[1:]
        controls = {name: value.to(dtype) for name, value in controls.items()}
        factor = controls["decay"][..., None]
        if memory.retention.per == "outer":
            factor = controls["value_decay"][..., None] * factor.mT
        written = v.to(dtype)[..., None] * k.to(dtype)[..., None, :]
        rate = controls["rate"][..., None, None] if memory.learner.rate is None else memory.learner.rate
        if memory.learner.rate != 1.0:
            written = written * rate
        entries: dict[str, Tensor | State] = {}
        if memory.learner.momentum:
            share = controls["momentum"][..., None, None]
            written, entries["momentum.matrix"] = _run(share, written, state["momentum.matrix"], lengths)
        held, entries["matrix"] = _run(factor, written, weight, lengths)
        if memory.read_timing == "before":
            held = torch.cat([weight[:, None], held[:, :-1]], 1)
        x = q.to(dtype)
        out = held[..., 0] * x if size[-1] == 1 else (held @ x[..., None])[..., 0]
        return out.to(v.dtype), state.successor(**entries)


def _run(factor: Tensor, added: Tensor, start: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """The scan of weights (B, T, H, V, K) from `start` (B, H, V, K), and the one after each row's last token."""
    flat = added.flatten(2)
    held, last = diagonal_scan(factor.expand_as(added).reshape(flat.shape), flat, start.flatten(1))
    if lengths is not None:
        index = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, flat.shape[-1])
        last = torch.where((lengths > 0)[:, None], held.gather(1, index)[:, 0], start.flatten(1))
    return held.view_as(added), last.view_as(start)


def diagonal_scan(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = a_t * h_t-1 + b_t for t = 1 .. T, element by element: all h (B, T, D), and the last one (B, D).

    a, b (B, T, D), h0 (B, D), one dtype; a is any number, zero included. T may be 0. Differentiable, twice if need be:
    with G_t = dh_t + a_t+1 G_t+1, a scan from the end, da_t = G_t h_t-1, db_t = G_t, dh_0 = a_1 G_1.
    """
    if not a.shape[1]:
        return b, h0
    found = _Scan.apply(a, b, h0)
    assert isinstance(found, tuple)
    return found


class _Scan(torch.autograd.Function):
    """(a, b, h0) -> (h, last h)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        h = _scan(a, b, h0)
        ctx.save_for_backward(a, h0, h)
        return h, h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h0, h = ctx.saved_tensors
        through = _Adjoint.apply(a, *grads)
        assert isinstance(through, Tensor)
        return _times_before(through, h, h0), through, a[:, 0] * through[:, 0]


class _Adjoint(torch.autograd.Function):
    """(a, dh, d last h) -> G, the scan from the end. Its own adjoint is the scan from the start."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, grad: Tensor, grad_last: Tensor) -> Tensor:
        through = torch.empty_like(grad)
        through[:, -1] = grad[:, -1] + grad_last
        _scan_back(a, grad, through)
        ctx.save_for_backward(a, through)
        return through

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, through = ctx.saved_tensors
        nothing = torch.zeros_like(a[:, 0])
        h, last = diagonal_scan(a, grads[0], nothing)
        return _times_before(through, h, nothing), h, last


def _times_before(x: Tensor, h: Tensor, h0: Tensor) -> Tensor:
    """x_t h_t-1."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # the former in a second derivative
        return x * torch.cat([h0[:, None], h[:, :-1]], 1)
    out = torch.empty_like(x)
    torch.mul(x[:, 1:], h[:, :-1], out=out[:, 1:])
    torch.mul(x[:, 0], h0, out=out[:, 0])
    return out


def _scan(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """All h."""
    h = torch.empty_like(b)
    size, whole = _blocks(a.shape[1])
    factors, added, states = (x[:, :whole].unflatten(1, (-1, size)).unbind(2) for x in (a, b, h))
    now = _by_block(factors, added, states, h0, range(whole // size))
    for t in range(whole, a.shape[1]):
        _place(b[:, t], a[:, t], now, h[:, t])
        now = h[:, t]
    return h


def _scan_back(a: Tensor, grad: Tensor, through: Tensor) -> None:
    """G_t = dh_t + a_t+1 G_t+1 for t = T-1 .. 1, where `through` holds G_T already."""
    length = a.shape[1] - 1
    size, whole = _blocks(length)
    now = through[:, -1]
    for t in range(length - 1, whole - 1, -1):
        _place(grad[:, t], a[:, t + 1], now, through[:, t])
        now = through[:, t]
    if whole:
        pieces = (a[:, 1 : whole + 1], grad[:, :whole], through[:, :whole])
        factors, added, states = (x.unflatten(1, (-1, size)).unbind(2)[::-1] for x in pieces)
        _by_block(factors, added, states, now, range(whole // size - 1, -1, -1))


def _by_block(
    factors: Sequence[Tensor], added: Sequence[Tensor], states: Sequence[Tensor], now: Tensor, order: range
) -> Tensor:
    """Fills `states` by h = factor * h + added, one tensor (B, blocks, D) a token of the blocks, from `now` (B, D)
    before the first block; returns what comes after the last one.

    First every block from zero, together with the product of its factors; then the state before each block; then
    every block from there.
    """
    product, total = factors[0].clone(), added[0].clone()
    for factor, new in zip(factors[1:], added[1:], strict=True):
        _place(new, factor, total, total)
        product *= factor
    start = torch.empty_like(total)
    for n in order:
        start[:, n] = now
        now = torch.addcmul(total[:, n], product[:, n], now)
    for factor, new, state in zip(factors, added, states, strict=True):
        _place(new, factor, start, state)
        start = state
    return now


def _place(new: Tensor, factor: Tensor, state: Tensor, where: Tensor) -> None:
    """where <- new + factor * state."""
    if torch.compiler.is_compiling():  # it refuses `out=` of a part of a tensor
        where.copy_(torch.addcmul(new, factor, state))
    else:
        torch.addcmul(new, factor, state, out=where)


def _blocks(length: int) -> tuple[int, int]:
    """Tokens a block, and how many tokens whole blocks hold."""
    size = max(math.isqrt(length), 1)
    return size, length - length % size
