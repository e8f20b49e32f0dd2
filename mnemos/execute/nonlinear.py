"""Matrix memories whose gradient bends with the error: the residuals of a chunk by forward substitution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.linear import CHUNK, chunk_flops
from mnemos.execute.once import differentiable_once
from mnemos.execute.precision import own_precision
from mnemos.execute.request import Request
from mnemos.memory import Controls, Objective
from mnemos.state import State


class NonlinearTriangular:
    """The predictions p_i = W k_i of a chunk, each depending on the slopes s_j = slope(p_j, v_j) of the writes before
    it, solve p = b - L s(p): the system of `TriangularDelta` with a bend in it, strictly triangular and so solved
    exactly row by row. Everything else, reads and carried states, is matrix products; no weights per token are formed.

    With a_i the decay if the gradient is taken after retention and 1 if before:
    b_i = a_i (carry_i-1 W_0 + carry_momentum_i-1 S_0) k_i and L_ij = a_i write_i-1,j (k_j . k_i).
    """

    name = "nonlinear triangular"
    summary = "slopes by forward substitution inside each chunk, all else by matrix products, momentum included; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_matrix(memory)
        if reason is None and memory.objective.slope_kind != "nonlinear":
            return "the objective's gradient is linear in the state: there is no need to go row by row"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        return chunk_flops(memory, request, solve=True)

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
        size, length, dtype = CHUNK, q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, size, q.device)
        queries, keys, values = (cut(x.to(dtype), size) for x in (q, k, v))
        cut_up = cut_controls(controls, size, dtype)
        c = coefficients(memory, cut_up, live, keys)
        judged = [control.name for control in memory.objective.controls]

        asking = keys
        if memory.learner.anchor == "retained" and "decay" in cut_up:
            decay = cut_up["decay"]
            asking = keys * (decay if decay.ndim == keys.ndim else decay[..., None])
        lower = scores(asking, keys, c.write[..., :-1, :]).unbind(2)
        of_weights = scale_tokens(asking, c.carry[..., :-1]).unbind(2)
        written = scale_tokens(keys, c.write[..., -1, :]).unbind(2)
        weight = state["matrix"]
        momentum = weight
        of_momentum, kicked = (), ()
        if c.carry_momentum is not None and c.momentum_write is not None:
            momentum = state["momentum.matrix"]
            of_momentum = scale_tokens(asking, c.carry_momentum[..., :-1]).unbind(2)
            kicked = (keys * c.momentum_write[..., None]).unbind(2)

        weights, momenta, slopes = [], [], []
        for n, (here, value) in enumerate(zip(c.each(2), values.unbind(2), strict=True)):
            weights.append(weight)
            asked = of_weights[n] @ weight.mT
            after = scale_weight(weight, here.carry[..., -1])
            if here.carry_momentum is not None:
                momenta.append(momentum)
                asked = asked + of_momentum[n] @ momentum.mT
                after = after + scale_weight(momentum, here.carry_momentum[..., -1])
            slope = substitute(memory.objective, asked, lower[n], value, {m: cut_up[m][:, :, n] for m in judged})
            if here.momentum_carry is not None:
                momentum = momentum * here.momentum_carry[..., None, None] - slope.mT @ kicked[n]
            weight = after - slope.mT @ written[n]
            slopes.append(slope)

        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
        out = scale_tokens(queries, c.carry[..., rows]) @ torch.stack(weights, 2).mT
        out = out - scores(queries, keys, c.write[..., rows, :]) @ torch.stack(slopes, 2)
        entries: dict[str, Tensor | State] = {"matrix": weight}
        if c.carry_momentum is not None:
            out = out + scale_tokens(queries, c.carry_momentum[..., rows]) @ torch.stack(momenta, 2).mT
            entries["momentum.matrix"] = momentum
        return join(out, length).to(v.dtype), state.successor(**entries)


def substitute(objective: Objective, asked: Tensor, lower: Tensor, value: Tensor, controls: Controls) -> Tensor:
    """The slopes s_i = slope(p_i, v_i) at p_i = asked_i - sum_j<i lower_ij s_j: asked, value (B, H, C, V), lower
    (B, H, C, C) and controls (B, H, C, ...) -> (B, H, C, V)."""
    names, lead = tuple(controls), asked.shape[:2]
    flat = [x.flatten(0, 1) for x in (asked, lower, value, *controls.values())]
    if torch.compiler.is_compiling():  # the compiler does not trace autograd inside a backward pass
        return _in_plain_steps(objective, names, *flat).unflatten(0, lead)
    slopes = Substitution.apply(objective, names, *flat)
    assert isinstance(slopes, Tensor)
    return slopes.unflatten(0, lead)


class Substitution(torch.autograd.Function):
    """`substitute` on (N, C, ...). Backward is the transposed system, solved from the last row to the first, with

    push_i = grad_i - sum_j>i lower_ji pull_j        pull_i = push_i d slope_i / d p_i
    """

    @staticmethod
    def forward(
        ctx: Any, objective: Objective, names: tuple[str, ...], asked: Tensor, lower: Tensor, value: Tensor, *of: Tensor
    ) -> Tensor:
        slopes, predictions = torch.empty_like(asked), torch.empty_like(asked)
        for i in range(asked.shape[1]):
            row = slice(i, i + 1)
            prediction = asked[:, row]
            if i:
                prediction = torch.baddbmm(prediction, lower[:, row, :i], slopes[:, :i], alpha=-1)
            slopes[:, row] = objective.slope(prediction, value[:, row], _row(names, of, row))
            predictions[:, row] = prediction
        ctx.objective, ctx.names = objective, names
        ctx.save_for_backward(slopes, predictions, lower, value, *of)
        return slopes

    @staticmethod
    @differentiable_once
    @own_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slopes, predictions, lower, value, *of = ctx.saved_tensors
        objective, names, grad = ctx.objective, ctx.names, grads[0]
        upper = lower.mT
        pushes, pulls = torch.empty_like(slopes), torch.empty_like(slopes)
        leaves = [x.detach().requires_grad_() for x in (predictions, value, *of)]
        with torch.enable_grad():
            everywhere = objective.slope(leaves[0], leaves[1], dict(zip(names, leaves[2:], strict=True)))
            total = everywhere.sum()
        derivative = None
        if objective.coordinatewise:
            (derivative,) = torch.autograd.grad(total, leaves[0], retain_graph=True)
        for i in reversed(range(slopes.shape[1])):
            row, after = slice(i, i + 1), slice(i + 1, None)
            push = grad[:, row]
            if i + 1 < slopes.shape[1]:
                push = torch.baddbmm(push, upper[:, row, after], pulls[:, after], alpha=-1)
            if derivative is not None:
                pull = push * derivative[:, row]
            else:
                with torch.enable_grad():
                    point = predictions[:, row].detach().requires_grad_()
                    slope = objective.slope(point, value[:, row], _row(names, of, row))
                (pull,) = torch.autograd.grad(slope, point, push)
            pushes[:, row], pulls[:, row] = push, pull
        others = torch.autograd.grad(everywhere, leaves[1:], pushes, allow_unused=True)
        return None, None, pulls, -(pulls @ slopes.mT).tril(-1), *others


def _row(names: tuple[str, ...], of: tuple[Tensor, ...] | list[Tensor], row: slice) -> dict[str, Tensor]:
    return {name: x[:, row] for name, x in zip(names, of, strict=True)}


def _in_plain_steps(
    objective: Objective, names: tuple[str, ...], asked: Tensor, lower: Tensor, value: Tensor, *of: Tensor
) -> Tensor:
    slopes: list[Tensor] = []
    for i in range(asked.shape[1]):
        row = slice(i, i + 1)
        prediction = asked[:, row]
        if slopes:
            prediction = prediction - lower[:, row, :i] @ torch.cat(slopes, 1)
        slopes.append(objective.slope(prediction, value[:, row], _row(names, of, row)))
    return torch.cat(slopes, 1)
