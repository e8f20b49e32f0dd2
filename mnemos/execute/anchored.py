"""Gradients anchored at the start of a chunk: any structure, by the dual form."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.anchored_chunk import ChainChunk
from mnemos.execute.base import declines_unless_gradient
from mnemos.execute.chunks import cut_controls
from mnemos.execute.coefficients import Coefficients, coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.phases import InPhase, where
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, Memory
from mnemos.memory.structure import Chain
from mnemos.state import State


class AnchoredDual:
    """All gradients of a chunk are taken at its first state, so each is one outer product d_j h_j^T a weight, known
    before the chunk is run. A product with the weights at token t is then

        W_t x = W_0 (carry_t x) + S_0 (carry_momentum_t x) - sum_j write_tj (h_j . x) d_j

    and the weights of single tokens are never formed.
    """

    name = "anchored dual"
    summary = "matrix products inside each gradient chunk, no weights per token; exact for anchored gradients"

    heavy = False
    """Whether what a chunk makes is too large to be kept for the backward pass."""

    def declines(self, memory: Any, request: Request) -> str | None:
        reason = declines_unless_gradient(memory)
        if reason is None and not memory.learner.anchored:
            return "gradients are taken token by token, not at the start of a chunk (GD(anchor=Chunk(n)))"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        shapes = memory.structure.shapes(request.key_dim, request.value_dim).values()
        size = sum(o * i for o, i in shapes)
        inside = sum(2 * memory.learner.chunk * (o + i) for o, i in shapes)
        return float(tokens * (size * (8 + (6 if memory.learner.momentum else 0)) + inside))

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
        learner, names = memory.learner, list(memory.structure.shapes(q.shape[-1], v.shape[-1]))
        dtype, lead = state[names[0]].dtype, (q.shape[0], q.shape[2])
        seen = InPhase.of({"q": q, "k": k, "v": v, **controls}, state["phase"], lengths, learner.chunk)
        # Rows and heads in one axis: (B * H, N, C, ...).
        laid = {name: x.flatten(0, 1) for name, x in cut_controls(seen.inputs, learner.chunk, dtype).items()}
        live = None if seen.live is None else seen.live.expand(*lead, -1, -1).flatten(0, 1)
        c = coefficients(memory, {name: laid[name] for name in controls}, live, laid["k"])
        work = self.chunk(memory, c, q.shape[-1], v.shape[-1])
        judged = [laid[control.name] for control in memory.objective.controls]
        columns = [laid["q"], laid["k"], laid["v"], *work.columns, *judged]

        kinds = ["", "momentum."] if learner.momentum else [""]
        held = work.pack([[state[kind + name].flatten(0, 1) for name in names] for kind in kinds])
        anchor, outputs = [state[f"anchor.{name}"] for name in names], []
        rows = seen.reached(laid["k"].shape[1])
        again = recomputing(lead[0] * lead[1] * q.shape[1], self.heavy)
        for n, of_chunk in enumerate(zip(*(x.unbind(1) for x in columns), strict=True)):
            point, apart = [w.unflatten(0, lead) for w in work.unpack(held)[0]], []
            if n == 0 and seen.opens is not None:
                point = [torch.where(seen.opens, p, a) for p, a in zip(point, anchor, strict=True)]
                apart = [p.flatten(0, 1) for p in point]
            anchor = [where(rows[n], p, a) for p, a in zip(point, anchor, strict=True)]
            here, tensors = partial(work, bool(apart)), (*held, *apart, *of_chunk)
            out, *held = recomputed(here, *tensors) if again else here(*tensors)
            outputs.append(out)

        out = seen.back(torch.stack(outputs, 1).unflatten(0, lead))
        entries: dict[str, Tensor | State] = {}
        for kind, of_kind in zip(kinds, work.unpack(held), strict=True):
            entries |= {kind + n: x.unflatten(0, lead).contiguous() for n, x in zip(names, of_kind, strict=True)}
        # Copies: a step works in place, and must reach one state only.
        entries |= {
            f"anchor.{name}": x.clone(memory_format=torch.contiguous_format)
            for name, x in zip(names, anchor, strict=True)
        }
        entries["phase"] = (seen.phase + (seen.length if lengths is None else lengths)) % learner.chunk
        return out.to(v.dtype), state.successor(**entries)

    def chunk(self, memory: Memory, c: Coefficients, key_dim: int, value_dim: int) -> ChainChunk | PlainChunk:
        """What runs a chunk."""
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
        if isinstance(memory.structure, Chain) and c.carry.shape[-2] == 1:
            return ChainChunk(memory, c, rows, key_dim, value_dim)
        return PlainChunk(memory, c, rows, list(memory.structure.shapes(key_dim, value_dim)))


class PlainChunk:
    """Runs chunk after chunk of any memory, differentiated by autograd."""

    def __init__(self, memory: Memory, c: Coefficients, rows: slice, names: list[str]):
        self.memory, self.rows, self.names = memory, rows, names
        self.columns = c.tensors()
        self.kinds = 1 if c.momentum_carry is None else 2

    def pack(self, parts: list[list[Tensor]]) -> list[Tensor]:
        """Weights, and momenta if any, (B, out, in) each -> the tensors that a chunk takes and gives."""
        return [x for part in parts for x in part]

    def unpack(self, held: list[Tensor]) -> list[list[Tensor]]:
        """What `pack` packed."""
        return [held[i : i + len(self.names)] for i in range(0, len(held), len(self.names))]

    def __call__(self, apart: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Outputs, and weights and momenta after the chunk.

        tensors: what `pack` gave; the weights at which gradients are taken, if they stand `apart`; q, k, v; the columns
        and the objective's controls.
        """
        memory, number = self.memory, len(self.names) * self.kinds
        held, tensors = self.unpack(list(tensors[:number])), tensors[number:]
        point = held[0]
        if apart:
            point, tensors = tensors[: len(self.names)], tensors[len(self.names) :]
        query, key, value, *rest = tensors
        c, judged = Coefficients(*rest[: len(self.columns)]), rest[len(self.columns) :]
        by_name = {control.name: x for control, x in zip(memory.objective.controls, judged, strict=True)}
        linked = {name: memory.retention.link(w) for name, w in zip(self.names, point, strict=True)}
        trace = memory.structure.trace(linked, key)
        slopes = trace.pullback(memory.objective.slope(trace.prediction, value, by_name))
        parts = {name: list(of_name) for name, *of_name in zip(self.names, *held, strict=True)}
        out = self.read(c, parts, trace.inputs, slopes, query)
        after = [_after(c, parts[name], trace.inputs[name], slopes[name]) for name in self.names]
        return out, *(x for part in zip(*after, strict=True) for x in part)

    def read(
        self,
        c: Coefficients,
        parts: dict[str, list[Tensor]],
        inputs: dict[str, Tensor],
        slopes: dict[str, Tensor],
        query: Tensor,
    ) -> Tensor:
        """M(q_t) at every token's own weights. parts: weight, and momentum if any, by name."""

        def linear(name: str, x: Tensor) -> Tensor:
            weight, *momentum = parts[name]
            read = scale_tokens(x, c.carry[..., self.rows]) @ weight.mT
            if c.carry_momentum is not None:
                read = read + scale_tokens(x, c.carry_momentum[..., self.rows]) @ momentum[0].mT
            written = scores(x, inputs[name], c.write[..., self.rows, :])
            return torch.baddbmm(read, written, slopes[name], alpha=-1)

        return self.memory.structure.forward(linear, query)


def _after(c: Coefficients, parts: list[Tensor], inputs: Tensor, slope: Tensor) -> list[Tensor]:
    """A weight, and its momentum if there is any, after the chunk."""
    weight, *momentum = parts
    moved = scale_weight(weight, c.carry[..., -1])
    if c.carry_momentum is not None:
        moved = moved + scale_weight(momentum[0], c.carry_momentum[..., -1])
    after = [torch.baddbmm(moved, slope.mT, scale_tokens(inputs, c.write[..., -1, :]), alpha=-1)]
    if c.momentum_carry is not None and c.momentum_write is not None:
        kept = momentum[0] * c.momentum_carry[..., None, None]
        after.append(torch.baddbmm(kept, slope.mT, inputs * c.momentum_write[..., None], alpha=-1))
    return after
