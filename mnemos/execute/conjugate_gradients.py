"""Least squares memories: the linear systems of all tokens at once, by conjugate gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.chunks import carried, cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scores
from mnemos.execute.precision import own_precision
from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Dot, LeastSquares
from mnemos.state import State

SIZE = 32


class ConjugateGradients:
    """o_t = G_t (H_t + R_t)^-1 q_t without forming any H_t inside a chunk: with C tokens' vectors as rows,

        P -> (H_t + R_t) p_t for all t at once  =  carry * (P H_0) + (write * P K^T) K + R * P

    is a pass of linear attention over the chunk, and the conjugate gradients of all tokens go on side by side.
    """

    name = "conjugate gradients"
    summary = "one linear system a token, all solved side by side by matrix products; exact to rounding"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, learner=LeastSquares)

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        key, value, size = request.key_dim, request.value_dim, SIZE
        product = 2 * key * key + 4 * size * key
        return float(tokens * (key * product + 2 * key * (key + 2 * value) + 2 * size * (key + value)))

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
        size, length, dtype = SIZE, q.shape[1], state["matrix"].dtype
        live = live_tokens(length, lengths, size, q.device)
        queries, keys, values = (cut(x.to(dtype), size) for x in (q, k, v))
        ridges = torch.cat([state["ridge"][:, None], controls["ridge"].to(dtype)], 1)
        last = torch.full_like(ridges[:, 0, 0, 0], length, dtype=torch.int64) if lengths is None else lengths
        if memory.read_timing == "after":
            rows, asked = slice(1, None), ridges[:, 1:]
        else:
            rows, asked = slice(None, -1), ridges[:, :-1]
        sums = memory.replace(objective=Dot(), learner=GD())
        others = {name: value for name, value in controls.items() if name != "ridge"}
        c = coefficients(sums, cut_controls(others, size, dtype), live, keys)

        written = scale_tokens(keys, c.write[..., -1, :])
        grams, gram = carried(state["gram"], c.carry[..., 0, -1], keys.mT @ written)
        befores, after = carried(state["matrix"], c.carry[..., 0, -1], values.mT @ written)
        carry, write = c.carry[..., 0, rows], c.write[..., 0, rows, :]
        padding = (torch.arange(queries.shape[2] * size, device=q.device) >= length).view(-1, size, 1)
        ridge = torch.where(padding, 1.0, cut(asked, size))
        solved = solve_all(queries, grams, keys, carry.contiguous(), write.contiguous(), ridge)
        out = scores(solved, keys, c.write[..., rows, :]) @ values
        out = out + scale_tokens(solved, c.carry[..., rows]) @ befores.mT
        newest = ridges[torch.arange(len(last), device=q.device), last]
        return join(out, length).to(v.dtype), state.successor(matrix=after, gram=gram, ridge=newest)


def product(x: Tensor, gram: Tensor, keys: Tensor, carry: Tensor, write: Tensor, ridge: Tensor) -> Tensor:
    """Rows x_t of (..., C, K) times carry_t gram + sum_j write_tj k_j k_j^T + Diag(ridge_t)."""
    return carry[..., None] * (x @ gram) + (write * (x @ keys.mT)) @ keys + ridge * x


@torch.library.custom_op("mnemos::solve_all", mutates_args=())
def solve_all(q: Tensor, gram: Tensor, keys: Tensor, carry: Tensor, write: Tensor, ridge: Tensor) -> Tensor:
    """The x with `product(x, ...)` = q, every row a positive definite system of its own, to rounding error.

    q, keys, ridge (..., C, K), gram (..., K, K), carry (..., C), write (..., C, C). Preconditioned by the diagonal.
    Keeps its inputs and x alone for the backward pass, which is one more solution: with dx the gradient and
    u = A^-1 dx, that of q is u, and that of A is -u x^T.
    """
    diagonal = carry[..., None] * gram.diagonal(dim1=-2, dim2=-1)[..., None, :] + write @ keys.square() + ridge
    tiny = torch.finfo(q.dtype).tiny
    x, residual = torch.zeros_like(q), q.clone()
    direction = residual / diagonal
    energy = (residual * direction).sum(-1, keepdim=True)
    enough = energy * torch.finfo(q.dtype).eps ** 2
    for _ in range(4 * q.shape[-1] + 8):
        going = energy > enough
        if not bool(going.any()):
            break
        pushed = product(direction, gram, keys, carry, write, ridge)
        step = torch.where(going, energy / (direction * pushed).sum(-1, keepdim=True).clamp(min=tiny), 0.0)
        x.addcmul_(step, direction)
        residual.addcmul_(step, pushed, value=-1.0)
        lifted = residual / diagonal
        before, energy = energy, torch.where(going, (residual * lifted).sum(-1, keepdim=True), energy)
        direction = lifted + direction * (energy / before.clamp(min=tiny))
    return x


@solve_all.register_fake
def _(q: Tensor, gram: Tensor, keys: Tensor, carry: Tensor, write: Tensor, ridge: Tensor) -> Tensor:
    return torch.empty_like(q)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1:], output)


@own_precision
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    gram, keys, carry, write, ridge, x = ctx.saved_tensors
    u = solve_all(grad.contiguous(), gram, keys, carry, write, ridge)
    x_keys, u_keys = x @ keys.mT, u @ keys.mT
    to_gram = (carry[..., None] * x).mT @ u
    to_keys = -((write * x_keys).mT @ u + (write * u_keys).mT @ x)
    to_carry = -((x @ gram) * u).sum(-1)
    return u, -(to_gram + to_gram.mT) / 2, to_keys, to_carry, -(x_keys * u_keys), -(x * u)


solve_all.register_autograd(_backward, setup_context=_keep)
