"""Gradients anchored at the start of a chunk: any structure, by the dual form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_gradient
from mnemos.execute.chunks import cut_controls, join, live_tokens
from mnemos.execute.coefficients import Coefficients, coefficients, scale_tokens, scale_weight, scores
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.memory import Controls, Memory
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


class AnchoredDual:
    """All gradients of a chunk are taken at its first state, so each is one outer product d_j h_j^T a weight, known
    before the chunk is run. A product with the weights at token t is then

        W_t x = W_0 (carry_t x) + S_0 (carry_momentum_t x) - sum_j write_tj (h_j . x) d_j

    and the weights of single tokens are never formed.
    """

    name = "anchored dual"
    summary = "matrix products inside each gradient chunk, no weights per token; exact for anchored gradients"

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
        phase, (batch, length, heads, _), size = state["phase"], q.shape, memory.learner.chunk
        dtype = state[next(iter(state.fresh))].dtype
        inputs = {"q": q, "k": k, "v": v, **controls}
        aligned = not torch.compiler.is_compiling() and not bool(phase.any())
        if aligned:
            live = live_tokens(length, lengths, size, q.device)
        else:  # rows stand at different places of a chunk: shift each one to where its chunk began
            moved, real = shift_to_chunks(list(inputs.values()), phase, lengths, size)
            inputs = dict(zip(inputs, moved, strict=True))
            live = real.view(batch, 1, -1, size)
        # Rows and heads in one axis: (B * H, N, C, ...).
        laid = {name: x.flatten(0, 1) for name, x in cut_controls(inputs, size, dtype).items()}
        live = None if live is None else live.expand(batch, heads, -1, -1).flatten(0, 1)
        c = coefficients(memory, {name: laid[name] for name in controls}, live, laid["k"])
        judged_by = {control.name: laid[control.name] for control in memory.objective.controls}

        shapes = memory.structure.shapes(q.shape[-1], v.shape[-1])
        parts = ["", "momentum."] if memory.learner.momentum else [""]
        # Each weight side by side with its momentum, so that one product reads or writes both.
        held = [torch.cat([state[part + name] for part in parts], -1).flatten(0, 1) for name in shapes]
        anchor = [state[f"anchor.{name}"].flatten(0, 1) for name in shapes]
        number = laid["k"].shape[1]
        touched = None if live is None else live.any(-1)  # (B * H, N): rows with real tokens in each chunk
        if touched is None:
            everyone = [True] * number
        else:
            everyone = [False] * number if torch.compiler.is_compiling() else touched.all(0).tolist()
        names, judged = list(shapes), list(judged_by)

        def work(*tensors: Tensor) -> tuple[Tensor, ...]:
            """Outputs, and each weight after the chunk, of the gradient point, the weights and what the chunk holds."""
            point, of_start, (query, key, value, *rest) = _cut(tensors, len(names), len(names))
            of_objective = dict(zip(judged, rest, strict=False))
            here, start = Coefficients(*rest[len(judged) :]), dict(zip(names, of_start, strict=True))
            linked = {name: memory.retention.link(w) for name, w in zip(names, point, strict=True)}
            trace = memory.structure.trace(linked, key)
            slopes = trace.pullback(memory.objective.slope(trace.prediction, value, of_objective))
            out = self.read(memory, here, start, trace.inputs, slopes, query)
            return out, *(_after(here, start[name], trace.inputs[name], slopes[name]) for name in names)

        again = recomputing(batch * heads * length)
        columns = [laid["q"], laid["k"], laid["v"], *judged_by.values(), *c.tensors()]
        outputs = []
        for n, of_chunk in enumerate(zip(*(x.unbind(1) for x in columns), strict=True)):
            point = [w[..., : shape[1]] for w, shape in zip(held, shapes.values(), strict=True)]
            if not n and not aligned:
                opens = (phase == 0).repeat_interleave(heads)[:, None, None]
                point = [torch.where(opens, p, a) for p, a in zip(point, anchor, strict=True)]
            tensors = (*point, *held, *of_chunk)
            out, *held = recomputed(work, *tensors) if again else work(*tensors)
            outputs.append(out)
            if everyone[n]:
                anchor = point
            else:
                assert touched is not None
                here = touched[:, n, None, None]
                anchor = [torch.where(here, p, a) for p, a in zip(point, anchor, strict=True)]

        out = join(torch.stack(outputs, 1).unflatten(0, (batch, heads)), length if aligned else len(outputs) * size)
        if not aligned:
            out = shift_back(out, phase, length)
        entries: dict[str, Tensor | State] = {}
        for name, both in zip(shapes, held, strict=True):
            pieces = both.unflatten(0, (batch, heads)).chunk(len(parts), -1)
            entries |= {part + name: x.contiguous() for part, x in zip(parts, pieces, strict=True)}
        # Copies: a step works in place, and must reach one state only.
        entries |= {
            f"anchor.{name}": x.unflatten(0, (batch, heads)).clone() for name, x in zip(shapes, anchor, strict=True)
        }
        entries["phase"] = (phase + (length if lengths is None else lengths)) % size
        return out.to(v.dtype), state.successor(**entries)

    def read(
        self,
        memory: Memory,
        c: Coefficients,
        held: dict[str, Tensor],
        inputs: dict[str, Tensor],
        slopes: dict[str, Tensor],
        query: Tensor,
    ) -> Tensor:
        """M(q_t) at every token's own weights."""
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)

        def linear(name: str, x: Tensor) -> Tensor:
            asked = scale_tokens(x, c.carry[..., rows])
            if c.carry_momentum is not None:
                asked = torch.cat([asked, scale_tokens(x, c.carry_momentum[..., rows])], -1)
            written = scores(x, inputs[name], c.write[..., rows, :])
            return torch.baddbmm(asked @ held[name].mT, written, slopes[name], alpha=-1)

        return memory.structure.forward(linear, query)


def _after(c: Coefficients, held: Tensor, inputs: Tensor, slope: Tensor) -> Tensor:
    """A weight, side by side with its momentum if there is any, after the chunk."""
    written = scale_tokens(inputs, c.write[..., -1, :])
    if c.carry_momentum is None or c.momentum_carry is None or c.momentum_write is None:
        return torch.baddbmm(scale_weight(held, c.carry[..., -1]), slope.mT, written, alpha=-1)
    weight, momentum = held.chunk(2, -1)
    moved = scale_weight(weight, c.carry[..., -1]) + scale_weight(momentum, c.carry_momentum[..., -1])
    kept = torch.cat([moved, momentum * c.momentum_carry[..., None, None]], -1)
    return torch.baddbmm(kept, slope.mT, torch.cat([written, inputs * c.momentum_write[..., None]], -1), alpha=-1)


def _cut(tensors: tuple[Tensor, ...], *counts: int) -> list[tuple[Tensor, ...]]:
    """The first so many, the next so many, and the rest."""
    pieces = []
    for count in counts:
        pieces.append(tensors[:count])
        tensors = tensors[count:]
    return [*pieces, tensors]
