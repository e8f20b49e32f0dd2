"""Decay and momentum of a chunk as plain matrices of numbers, so that weights are never copied per token.

With writes g_j, the recurrence S_t = m_t S_t-1 - r_t g_t, W_t = a_t W_t-1 + S_t solves to

    W_t = carry_t W_0 + carry_momentum_t S_0 - sum_j write_tj g_j

for t = 0 .. C (row 0 is the state before the chunk). Decay may differ between groups of input channels: every
coefficient has a group axis g, of size 1 (one decay a head) or K (one a key channel); a weight's input side is cut
into g equal groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.precision import own_precision
from mnemos.memory import GD, Controls, Memory


class PairProducts(torch.autograd.Function):
    """P[t, s] = product of a_i over s < i <= t, 0 where t < s: (..., C) -> (..., C+1, C+1).

    Products instead of exponentials of summed logarithms: exact where a_i = 0, and so is the gradient,
    d a_i = sum_{t >= i > s} dP[t, s] P[t, i] P[i-1, s].
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        size = a.shape[-1] + 1
        if torch.compiler.is_compiling():  # compiled code would copy all of it for every row
            later = torch.ones(size, size, dtype=torch.bool, device=a.device).tril(-1)
            rows = torch.cat([torch.ones_like(a[..., :1]), a], -1)[..., None]
            product = torch.where(later, rows, 1.0).cumprod(-2).tril()
        else:  # by rows, for a cumulative product takes five times as long
            product = torch.eye(size, dtype=a.dtype, device=a.device).repeat(*a.shape[:-1], 1, 1)
            for t in range(1, size):
                product[..., t, :t] = product[..., t - 1, :t] * a[..., t - 1, None]
        ctx.save_for_backward(product)
        return product

    @staticmethod
    @own_precision
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (product,) = ctx.saved_tensors
        through = grads[0] @ product.mT
        return (product[..., 1:] * through[..., :-1]).sum(-2)


@dataclass(frozen=True)
class Coefficients:
    """Of chunks of C tokens; leading axes are free. Shapes: carry (..., g, C+1), write (..., g, C+1, C), and the
    momentum's own carry (...) and write (..., C) at the end of the chunk."""

    carry: Tensor
    write: Tensor
    carry_momentum: Tensor | None = None
    momentum_carry: Tensor | None = None
    momentum_write: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Those there are; `Coefficients(*tensors)` puts them together again."""
        fields = (self.carry, self.write, self.carry_momentum, self.momentum_carry, self.momentum_write)
        return [x for x in fields if x is not None]

    def each(self, axis: int) -> list[Coefficients]:
        """One a chunk, of chunks along `axis`."""
        return [Coefficients(*x) for x in zip(*(x.unbind(axis) for x in self.tensors()), strict=True)]


def coefficients(memory: Memory, controls: Controls, live: Tensor | None, like: Tensor) -> Coefficients:
    """The coefficients of `memory` for controls cut into chunks.

    controls: (..., C), or (..., C, K) per channel. live: (..., C) bool; other tokens are inert. like: a tensor
    (..., C, anything) for the shape, dtype and device.
    """
    shape = like.shape[:-1]

    def inert(value: Tensor, neutral: float) -> Tensor:
        return value if live is None else torch.where(live, value, neutral)

    assert isinstance(memory.learner, GD)
    rate = controls["rate"] if "rate" in controls else like.new_full(shape, memory.learner.rate or 0.0)
    rate = inert(rate, 0.0)[..., None, None, :]
    decay = controls.get("decay")
    if decay is None:
        size = shape[-1] + 1
        kept = torch.ones(size, size, dtype=like.dtype, device=like.device).tril().expand(*shape[:-1], 1, size, size)
    else:
        grouped = decay[..., None, :] if decay.ndim == len(shape) else decay.mT
        if live is not None:
            grouped = torch.where(live[..., None, :], grouped, 1.0)
        kept = PairProducts.apply(grouped)
    assert isinstance(kept, Tensor)
    if "momentum" not in controls:
        return Coefficients(carry=kept[..., 0], write=kept[..., 1:] * rate)

    share = PairProducts.apply(inert(controls["momentum"], 1.0))
    assert isinstance(share, Tensor)
    pushed = share[..., None, 1:, 1:] * rate  # n_tj: how much of write j the momentum still holds at t
    held = share[..., None, 1:, :1]  # how much of S_0
    if live is not None:  # an inert token passes no momentum on to the weights
        pushing = live[..., None, :, None]
        pushed_now, held_now = pushed * pushing, held * pushing
    else:
        pushed_now, held_now = pushed, held
    later = kept[..., 1:]
    return Coefficients(
        carry=kept[..., 0],
        write=later @ pushed_now,
        carry_momentum=(later @ held_now)[..., 0],
        momentum_carry=share[..., -1, 0],
        momentum_write=pushed[..., 0, -1, :],
    )


def scores(q: Tensor, k: Tensor, write: Tensor) -> Tensor:
    """sum_i q_ti k_ji write[group of i]_tj: (..., T, in), (..., C, in), (..., g, T, C) -> (..., T, C)."""
    groups = write.shape[-3]
    if groups == 1:
        return (q @ k.mT) * write[..., 0, :, :]
    q, k = (x.unflatten(-1, (groups, -1)).transpose(-3, -2) for x in (q, k))
    return ((q @ k.mT) * write).sum(-3)


def scale_tokens(x: Tensor, factor: Tensor) -> Tensor:
    """x (..., T, in) times factor (..., g, T), group by group."""
    groups = factor.shape[-2]
    if groups == 1:
        return x * factor[..., 0, :, None]
    return (x.unflatten(-1, (groups, -1)) * factor.mT[..., None]).flatten(-2)


def scale_weight(weight: Tensor, factor: Tensor) -> Tensor:
    """weight (..., out, in) times factor (..., g) on its input side."""
    groups = factor.shape[-1]
    if groups > 1:
        factor = factor.repeat_interleave(weight.shape[-1] // groups, -1)
    return weight * factor[..., None, :]
