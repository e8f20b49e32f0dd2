"""One chunk of anchored gradients for a chain of weights: forward, and backward by hand.

The equations are those of `AnchoredDual`, for weights W_i and their momenta S_i:

    z_i = x_i W_i^T       x_i+1 = act(z_i)                                          keys, at the gradient point
    d_n = end'(z_n) e     d_i = act'(z_i) * (d_i+1 W_i+1)
    a_i = c y_i W_i^T + m y_i S_i^T - (y_i x_i^T * write) d_i     y_i+1 = act(a_i)   queries, at their own weights
    W_i <- keep_0 W_i + cross S_i - d_i^T (w x_i)      S_i <- keep_1 S_i - d_i^T (n x_i)

c and m are what a read sees of W and of S, w and n how much of each token W and S hold at the chunk's end. The two
weights are held one below the other, so that one product serves both, with their shorter side first, so that the
factors c, m, w and n fall on short vectors: U (B, p, short, long), transposed where inputs are shorter than outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnemos.execute.coefficients import Coefficients
from mnemos.execute.precision import own_precision
from mnemos.memory import Memory
from mnemos.memory.structure import Chain


class Shares(NamedTuple):
    """Coefficients as a chunk uses them, one decay a head; p is 2 with momentum and 1 without it.

    reads (..., C, p): c and m. write (..., C, C). writes (..., C, p): w and n. keep (..., p); cross (...).
    """

    reads: Tensor
    write: Tensor
    writes: Tensor
    keep: Tensor
    cross: Tensor

    @classmethod
    def of(cls, c: Coefficients, rows: slice) -> Shares:
        """`rows`: those of the states that are read."""
        carry, write = c.carry[..., 0, :], c.write[..., 0, :, :]
        if c.carry_momentum is None or c.momentum_carry is None or c.momentum_write is None:
            last = carry[..., -1]
            return cls(carry[..., rows, None], write[..., rows, :], write[..., -1, :, None], last[..., None], last)
        moved = c.carry_momentum[..., 0, :]
        return cls(
            torch.stack([carry[..., rows], moved[..., rows]], -1),
            write[..., rows, :],
            torch.stack([write[..., -1, :], c.momentum_write], -1),
            torch.stack([carry[..., -1], c.momentum_carry], -1),
            moved[..., -1],
        )


class Given(NamedTuple):
    """A chunk's inputs, rows and heads in the first axis. held: U of each weight. point: the weights (out, in) at which
    gradients are taken; empty where they are those in `held`."""

    held: tuple[Tensor, ...]
    point: tuple[Tensor, ...]
    q: Tensor
    k: Tensor
    v: Tensor
    shares: Shares
    judged: tuple[Tensor, ...]


class Made(NamedTuple):
    """What the forward pass leaves for the backward pass, each a list over the weights. z, a: outputs for keys and for
    queries; x, y: inputs; slope: act'(z), g: what it is multiplied with; last: d_n; score: y x^T; between: what
    stands between y and U, or between U and a, whichever is short; error: of the prediction."""

    z: list[Tensor]
    x: list[Tensor]
    slope: list[Tensor]
    g: list[Tensor]
    a: list[Tensor]
    y: list[Tensor]
    score: list[Tensor]
    between: list[Tensor]
    last: list[Tensor]
    error: list[Tensor]


class ChainChunk:
    """Runs chunk after chunk of a memory whose structure is a `Chain` with one decay a head."""

    def __init__(self, memory: Memory, c: Coefficients, rows: slice, key_dim: int, value_dim: int):
        assert isinstance(memory.structure, Chain)
        self.memory, self.chain = memory, memory.structure
        self.columns: list[Tensor] = list(Shares.of(c, rows))
        # Whether the inputs are the shorter side, for each weight.
        self.narrow = [into < out for out, into in memory.structure.shapes(key_dim, value_dim).values()]

    def pack(self, parts: list[list[Tensor]]) -> list[Tensor]:
        """Weights, and momenta if any, (B, out, in) each -> U of each weight."""
        held = [torch.stack(both, 1) for both in zip(*parts, strict=True)]
        return [u.mT.contiguous() if narrow else u for u, narrow in zip(held, self.narrow, strict=True)]

    def unpack(self, held: list[Tensor]) -> list[list[Tensor]]:
        """What `pack` packed."""
        turned = [u.mT if narrow else u for u, narrow in zip(held, self.narrow, strict=True)]
        return [list(part) for part in zip(*(u.unbind(1) for u in turned), strict=True)]

    def __call__(self, apart: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs, and U of each weight after the chunk, of the tensors of `Given`."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _ByHand.apply(self, apart, *tensors)  # pyright: ignore[reportReturnType]
        out, after, _ = self.forward(self.given(apart, tensors))
        return out, *after

    def given(self, apart: bool, tensors: tuple[Tensor, ...]) -> Given:
        depth = len(self.narrow)
        held, tensors = tensors[:depth], tensors[depth:]
        point, tensors = (tensors[:depth], tensors[depth:]) if apart else ((), tensors)
        q, k, v, *shares = tensors[:8]
        return Given(held, point, q, k, v, Shares(*shares), tensors[8:])

    def forward(self, given: Given) -> tuple[Tensor, list[Tensor], Made]:
        chain, shares, weights, depth = self.chain, given.shares, self._point(given), len(self.narrow)
        made = Made([], [given.k], [], [], [], [given.q], [], [], [], [])
        for weight in weights:
            made.z.append(made.x[-1] @ weight.mT)
            if len(made.x) < depth:
                made.x.append(chain.act(made.z[-1]))
        judged = self._judged(given.judged)
        made.error.append(self.memory.objective.slope(chain.end(given.k, made.z[-1]), given.v, judged))
        made.last.append(chain.end_pullback(made.z[-1], made.error[0]))
        d = [made.last[0]]
        for i in range(depth - 2, -1, -1):
            made.slope.insert(0, chain.act_slope(made.z[i]))
            made.g.insert(0, d[0] @ weights[i + 1])
            d.insert(0, made.slope[0] * made.g[0])

        for i, (u, narrow) in enumerate(zip(given.held, self.narrow, strict=True)):
            made.score.append(made.y[i] @ made.x[i].mT)
            if narrow:
                made.between.append(_spread(made.y[i], shares.reads))
                read = made.between[i] @ u.flatten(1, 2)
            else:
                made.between.append(made.y[i] @ u.flatten(1, 2).mT)
                read = _gathered(made.between[i], shares.reads)
            made.a.append(read.baddbmm_(made.score[i] * shares.write, d[i], alpha=-1))
            if i + 1 < depth:
                made.y.append(chain.act(made.a[i]))
        after = []
        for i, u in enumerate(given.held):
            short, long = self._short_first(i, made.x[i], d[i])
            mixed = _mixed(u, shares).flatten(1, 2)
            after.append(mixed.baddbmm_(_spread(short, shares.writes).mT, long, alpha=-1).view_as(u))
        return chain.end(given.q, made.a[-1]), after, made

    def backward(self, given: Given, made: Made, to_out: Tensor, to_after: tuple[Tensor, ...]) -> list[Tensor]:
        """The derivatives by all tensors of `given`, in their order."""
        chain, shares, weights, depth = self.chain, given.shares, self._point(given), len(self.narrow)
        z, x, slope, g, a, y, score, between, last, (error,) = made
        d = [*(one * other for one, other in zip(slope, g, strict=True)), *last]
        to_reads, to_write, to_writes, to_keep, to_cross = (torch.zeros_like(share) for share in shares)

        # The weights after the chunk.
        to_held: list[Tensor] = []
        to_x: list[Tensor] = []
        to_d: list[Tensor] = []
        for i, (u, to_u) in enumerate(zip(given.held, (grad.contiguous() for grad in to_after), strict=True)):
            short, long = self._short_first(i, x[i], d[i])
            to_written = long @ to_u.flatten(1, 2).mT
            to_writes -= _against(to_written, short)
            to_short = _gathered(to_written, shares.writes).neg_()
            to_long = (_spread(short, shares.writes) @ to_u.flatten(1, 2)).neg_()
            of_x, of_d = self._short_first(i, to_short, to_long)
            to_x.append(of_x)
            to_d.append(of_d)
            to_held.append(_mixed_backward(u, shares, to_u, to_keep, to_cross))

        # The reads, from the last weight to the first.
        to_a, to_y = chain.end_pullback(a[-1], to_out), to_out
        for i in range(depth - 1, -1, -1):
            if i + 1 < depth:
                to_a = chain.act_slope(a[i]).mul_(to_y)
            u, to_u = given.held[i].flatten(1, 2), to_held[i].flatten(1, 2)
            if self.narrow[i]:
                to_between = to_a @ u.mT
                to_y = _gathered(to_between, shares.reads)
                to_reads += _against(to_between, y[i])
                to_u.baddbmm_(between[i].mT, to_a)
            else:
                to_between = _spread(to_a, shares.reads)
                to_y = to_between @ u
                to_reads += _against(between[i], to_a)
                to_u.baddbmm_(to_between.mT, y[i])
            to_d[i].baddbmm_((score[i] * shares.write).mT, to_a, alpha=-1)
            to_score = (to_a @ d[i].mT).neg_()
            to_write.addcmul_(to_score, score[i])
            to_score.mul_(shares.write)
            to_y.baddbmm_(to_score, x[i])
            to_x[i].baddbmm_(to_score.mT, y[i])
        to_q = to_y + to_out if chain.residual else to_y

        # The gradients at the point: up through their backward pass, then down through its forward pass.
        to_point = [torch.zeros_like(w) for w in given.point] or self._point(given._replace(held=tuple(to_held)))
        to_z: list[Tensor] = []
        for i in range(depth - 1):
            to_z.append(chain.act_curvature(z[i]).mul_(g[i]).mul_(to_d[i]))
            to_g = to_d[i].mul_(slope[i])
            to_d[i + 1].baddbmm_(to_g, weights[i + 1].mT)
            self._add(i + 1, to_point[i + 1], to_g, d[i + 1])
        to_error = chain.end_pullback(z[-1], to_d[-1])
        to_prediction, to_v, to_judged = self._slope_backward(given, z[-1], to_error)
        to_z.append(chain.end_pullback_slope(z[-1], error, to_d[-1]) + chain.end_pullback(z[-1], to_prediction))
        for i in range(depth - 1, -1, -1):
            self._add(i, to_point[i], x[i], to_z[i])
            to_x[i].baddbmm_(to_z[i], weights[i])
            if i:
                to_z[i - 1].addcmul_(slope[i - 1], to_x[i])
        to_k = to_x[0] + to_prediction if chain.residual else to_x[0]

        apart = to_point if given.point else []
        return [*to_held, *apart, to_q, to_k, to_v, to_reads, to_write, to_writes, to_keep, to_cross, *to_judged]

    def _point(self, given: Given) -> list[Tensor]:
        """The weights (out, in) at which gradients are taken."""
        return list(given.point) or self.unpack(list(given.held))[0]

    def _short_first(self, i: int, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """A weight's inputs and outputs as short and long, or the other way round."""
        return (inputs, outputs) if self.narrow[i] else (outputs, inputs)

    def _add(self, i: int, to_weight: Tensor, inputs: Tensor, outputs: Tensor) -> None:
        """The gradient of a product with weight i, added in place."""
        if self.narrow[i]:
            to_weight.mT.baddbmm_(inputs.mT, outputs)
        else:
            to_weight.baddbmm_(outputs.mT, inputs)

    def _judged(self, values: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {control.name: x for control, x in zip(self.memory.objective.controls, values, strict=True)}

    def _slope_backward(self, given: Given, z: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The derivatives of <grad, the objective's slope> by prediction, value and the objective's controls."""
        objective = self.memory.objective
        if objective.slope_kind == "identity":
            return grad, -grad, []
        leaves = [x.detach().requires_grad_() for x in (self.chain.end(given.k, z), given.v, *given.judged)]
        with torch.enable_grad():
            slope = objective.slope(leaves[0], leaves[1], self._judged(tuple(leaves[2:])))
        found = torch.autograd.grad(slope, leaves, grad, materialize_grads=True)
        return found[0], found[1], list(found[2:])


class _ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunk: ChainChunk, apart: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, after, made = chunk.forward(chunk.given(apart, tensors))
        ctx.chunk, ctx.apart, ctx.counts = chunk, apart, [len(tensors), *map(len, made)]
        ctx.save_for_backward(*tensors, *(x for field in made for x in field))
        return out, *after

    @staticmethod
    @own_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, fields = ctx.saved_tensors, []
        for count in ctx.counts:
            fields.append(saved[:count])
            saved = saved[count:]
        tensors, given = fields[0], ctx.chunk.given(ctx.apart, fields[0])
        if not torch.is_grad_enabled():
            return None, None, *ctx.chunk.backward(given, Made(*fields[1:]), grads[0], grads[1:])
        # Second derivatives: by autograd.
        out, after, _ = ctx.chunk.forward(given)
        need = ctx.needs_input_grad[2:]
        wanted = [x for x, needed in zip(tensors, need, strict=True) if needed]
        found = iter(torch.autograd.grad((out, *after), wanted, grads, create_graph=True, materialize_grads=True))
        return None, None, *(next(found) if needed else None for needed in need)


def _spread(x: Tensor, shares: Tensor) -> Tensor:
    """x (B, C, n) times shares (B, C, p), side by side: (B, C, p n)."""
    return (x[..., None, :] * shares[..., None]).flatten(-2)


def _gathered(x: Tensor, shares: Tensor) -> Tensor:
    """sum_p shares_p x_p of x (B, C, p n): the transpose of `_spread`."""
    parts = x.chunk(shares.shape[-1], -1)
    total = parts[0] * shares[..., :1]
    for p, part in enumerate(parts[1:], 1):
        total = total.addcmul_(part, shares[..., p : p + 1])
    return total


def _against(x: Tensor, other: Tensor) -> Tensor:
    """<x_p, other> for x (B, C, p n): what `_spread` and `_gathered` give for their shares, (B, C, p)."""
    return (x.unflatten(-1, (-1, other.shape[-1])) * other[..., None, :]).sum(-1)


def _mixed(u: Tensor, shares: Shares) -> Tensor:
    """U without new writes."""
    mixed = u * shares.keep[..., None, None]
    if u.shape[1] > 1:
        mixed[:, 0].addcmul_(u[:, 1], shares.cross[:, None, None])
    return mixed


def _mixed_backward(u: Tensor, shares: Shares, grad: Tensor, to_keep: Tensor, to_cross: Tensor) -> Tensor:
    """The derivative by U; those by keep and cross are added to what they were."""
    to_u = grad * shares.keep[..., None, None]
    products = grad.flatten(2) @ u.flatten(2).mT  # (B, p, p): one pass over both, and nothing as large is written
    to_keep += products.diagonal(dim1=-2, dim2=-1)
    if u.shape[1] > 1:
        to_u[:, 1].addcmul_(grad[:, 0], shares.cross[:, None, None])
        to_cross += products[:, 0, 1]
    return to_u
