"""Gradients anchored at the start of a chunk: any structure, by the dual form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_gradient
from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.coefficients import Coefficients, coefficients, scale_tokens, scale_weight, scores
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
        return float(tokens * (size * (8 + (2 if memory.learner.momentum else 0)) + inside))

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
        phase, length, size = state["phase"], q.shape[1], memory.learner.chunk
        dtype = state[next(iter(state.fresh))].dtype
        inputs = {"q": q, "k": k, "v": v, **controls}
        aligned = not torch.compiler.is_compiling() and not bool(phase.any())
        if aligned:
            live = live_tokens(length, lengths, size, q.device)
        else:  # rows stand at different places of a chunk: shift each one to where its chunk began
            moved, real = shift_to_chunks(list(inputs.values()), phase, lengths, size)
            inputs = dict(zip(inputs, moved, strict=True))
            live = real.view(len(phase), 1, -1, size)
        queries, keys, values = (cut(inputs.pop(name).to(dtype), size) for name in ("q", "k", "v"))
        cut_up = cut_controls(inputs, size, dtype)
        judged = [c.name for c in memory.objective.controls]
        c = coefficients(memory, cut_up, live, keys)

        names = list(memory.structure.shapes(q.shape[-1], v.shape[-1]))
        weights = {n: state[n] for n in names}
        momentum = {n: state[f"momentum.{n}"] for n in names} if memory.learner.momentum else {}
        anchor = {n: state[f"anchor.{n}"] for n in names}
        touched = None if live is None else live[:, 0].any(-1)  # (B, N): rows with real tokens in each chunk
        if touched is None:
            everyone = [True] * keys.shape[2]
        else:
            everyone = [False] * keys.shape[2] if torch.compiler.is_compiling() else touched.all(0).tolist()
        outputs = []
        pieces = zip(c.unbind(2), queries.unbind(2), keys.unbind(2), values.unbind(2), strict=True)
        for n, (here, query, key, value) in enumerate(pieces):
            if n or aligned:
                point = weights
            else:
                opens = (phase == 0)[:, None, None, None]
                point = {name: torch.where(opens, weights[name], anchor[name]) for name in names}
            trace = memory.structure.trace({name: memory.retention.link(w) for name, w in point.items()}, key)
            of_objective = {name: cut_up[name][:, :, n] for name in judged}
            slopes = trace.pullback(memory.objective.slope(trace.prediction, value, of_objective))
            outputs.append(self.read(memory, here, weights, momentum, trace.inputs, slopes, query))
            if everyone[n]:
                anchor = point
            else:
                assert touched is not None
                here_too = touched[:, n, None, None, None]
                anchor = {name: torch.where(here_too, point[name], anchor[name]) for name in names}
            weights, momentum = _after(here, weights, momentum, trace.inputs, slopes)

        out = join(torch.stack(outputs, 2), length if aligned else len(outputs) * size)
        if not aligned:
            out = shift_back(out, phase, length)
        entries: dict[str, Tensor | State] = dict(weights)
        entries |= {f"momentum.{name}": x for name, x in momentum.items()}
        # Never the incoming state's own weights: a step works in place, and must reach one state only.
        entries |= {f"anchor.{name}": x.clone() if x is state[name] else x for name, x in anchor.items()}
        entries["phase"] = (phase + (length if lengths is None else lengths)) % size
        return out.to(v.dtype), state.successor(**entries)

    def read(
        self,
        memory: Memory,
        c: Coefficients,
        weights: dict[str, Tensor],
        momentum: dict[str, Tensor],
        inputs: dict[str, Tensor],
        slopes: dict[str, Tensor],
        query: Tensor,
    ) -> Tensor:
        """M(q_t) at every token's own weights, without forming them."""
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)

        def linear(name: str, x: Tensor) -> Tensor:
            out = scale_tokens(x, c.carry[..., rows]) @ weights[name].mT
            if c.carry_momentum is not None:
                out = out + scale_tokens(x, c.carry_momentum[..., rows]) @ momentum[name].mT
            return out - scores(x, inputs[name], c.write[..., rows, :]) @ slopes[name]

        return memory.structure.forward(linear, query)


def _after(
    c: Coefficients,
    weights: dict[str, Tensor],
    momentum: dict[str, Tensor],
    inputs: dict[str, Tensor],
    slopes: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and momentum after the chunk."""
    new_weights, new_momentum = {}, {}
    for name, weight in weights.items():
        written = slopes[name].mT @ scale_tokens(inputs[name], c.write[..., -1, :])
        new_weights[name] = scale_weight(weight, c.carry[..., -1]) - written
        if c.carry_momentum is not None and c.momentum_carry is not None and c.momentum_write is not None:
            new_weights[name] = new_weights[name] + scale_weight(momentum[name], c.carry_momentum[..., -1])
            kicked = slopes[name].mT @ (inputs[name] * c.momentum_write[..., None])
            new_momentum[name] = momentum[name] * c.momentum_carry[..., None, None] - kicked
    return new_weights, new_momentum
