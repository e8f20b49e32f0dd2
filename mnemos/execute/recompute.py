"""Work whose intermediates are made again for the gradient instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.precision import own_precision

KEPT = 2**14
"""Tokens of all rows and heads up to which intermediates are kept: making them again costs a third more time."""

Work = Callable[..., tuple[Tensor, ...]]


def recomputing(tokens: int, heavy: bool = False) -> bool:
    """Whether the gradients of a run over so many tokens, those of all rows and heads, are to be recomputed. heavy: it
    is too much to be kept even for a few. Compiled code is left to the compiler, which decides by itself what it
    keeps."""
    return (heavy or tokens > KEPT) and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def recomputed(work: Work, *tensors: Tensor) -> tuple[Tensor, ...]:
    """work(*tensors), differentiable in all of them. Only `tensors` are kept for the backward pass, which runs `work`
    again."""
    return _Recomputed.apply(work, *tensors)  # pyright: ignore[reportReturnType]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.work = work
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return work(*tensors)

    @staticmethod
    @own_precision
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted, leaves, twice = ctx.needs_input_grad[1:], ctx.saved_tensors, torch.is_grad_enabled()
        if not twice:  # no second derivatives are asked for
            leaves = [x.detach().requires_grad_(need) for x, need in zip(leaves, wanted, strict=True)]
        with torch.enable_grad():
            made = ctx.work(*leaves)
        reached = [(x, g) for x, g in zip(made, grads, strict=True) if g is not None and x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [x for x, _ in reached],
                [x for x in leaves if x.requires_grad],
                [g for _, g in reached],
                allow_unused=True,
                create_graph=twice,
            )
        )
        return None, *(next(found) if need else None for need in wanted)
