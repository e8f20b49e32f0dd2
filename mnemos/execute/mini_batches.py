"""Mini-batches of inner gradient steps: any structure, by TTT's dual form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_kind
from mnemos.execute.chunks import cut_controls
from mnemos.execute.phases import InPhase, where
from mnemos.execute.request import Request
from mnemos.memory import Controls, Memory, MiniBatch
from mnemos.state import State


class MiniBatchDual:
    """All gradients of a mini-batch are taken at its first weights W, so each is one outer product d_j h_j^T a weight.
    A product with the weights at token t is then

        W_t x = W x + scale_t (S x - sum_j<=t rate_j (h_j . x) d_j)

    and the weights of single tokens are never formed. S is what an open mini-batch brings along.
    """

    name = "mini-batch dual"
    summary = "matrix products inside each mini-batch, no weights per token; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        return declines_unless_kind(memory, learner=MiniBatch)

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        shapes = memory.structure.shapes(request.key_dim, request.value_dim).values()
        size = sum(o * i for o, i in shapes)
        inside = sum(2 * memory.learner.size * (o + i) for o, i in shapes)
        return float(tokens * (10 * size + inside))

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
        size, dtype = memory.learner.size, state[next(iter(state.fresh))].dtype
        seen = InPhase.of({"q": q, "k": k, "v": v, **controls}, state["phase"], lengths, size)
        laid = cut_controls(seen.inputs, size, dtype)
        queries, keys, values, rates, scales = (laid.pop(name) for name in ("q", "k", "v", "rate", "scale"))
        newest = scales[..., -1]
        if seen.live is not None:
            rates = torch.where(seen.live, rates, 0.0)
            place = torch.where(seen.live, torch.arange(size, device=q.device), -1).amax(-1, keepdim=True).clamp(min=0)
            newest = scales.gather(-1, place.expand(*scales.shape[:-1], 1))[..., 0]

        names = list(memory.structure.shapes(q.shape[-1], v.shape[-1]))
        weights, anchors, sums = ({n: state[prefix + n] for n in names} for prefix in ("", "anchor.", "sum."))
        outputs = []
        for n, here in enumerate(seen.reached(keys.shape[2])):
            point, before = weights, {name: torch.zeros_like(sums[name]) for name in names}
            if n == 0 and seen.opens is not None:
                point = {name: torch.where(seen.opens, weights[name], anchors[name]) for name in names}
                before = {name: torch.where(seen.opens, 0.0, sums[name]) for name in names}
            trace = memory.structure.trace(point, keys[:, :, n])
            judged = {name: value[:, :, n] for name, value in laid.items()}
            slopes = trace.pullback(memory.objective.slope(trace.prediction, values[:, :, n], judged))
            steps = {name: slope * rates[:, :, n, :, None] for name, slope in slopes.items()}
            outputs.append(_read(memory, point, before, trace.inputs, steps, scales[:, :, n], queries[:, :, n]))
            after = {name: before[name] - steps[name].mT @ trace.inputs[name] for name in names}
            now = {name: point[name] + newest[:, :, n, None, None] * after[name] for name in names}
            weights, anchors, sums = (
                {name: where(here, new[name], old[name]) for name in names}
                for new, old in ((now, weights), (point, anchors), (after, sums))
            )

        out = seen.back(torch.stack(outputs, 2))
        entries: dict[str, Tensor | State] = dict(weights)
        entries |= {f"anchor.{name}": x.clone() if x is state[name] else x for name, x in anchors.items()}
        entries |= {f"sum.{name}": x for name, x in sums.items()}
        entries["phase"] = (seen.phase + (seen.length if lengths is None else lengths)) % size
        return out.to(v.dtype), state.successor(**entries)


def _read(
    memory: Memory,
    weights: dict[str, Tensor],
    sums: dict[str, Tensor],
    inputs: dict[str, Tensor],
    steps: dict[str, Tensor],
    scale: Tensor,
    query: Tensor,
) -> Tensor:
    """M(q_t) at every token's own weights."""

    def linear(name: str, x: Tensor) -> Tensor:
        learnt = x @ sums[name].mT - (x @ inputs[name].mT).tril() @ steps[name]
        return x @ weights[name].mT + scale[..., None] * learnt

    return memory.structure.forward(linear, query)
