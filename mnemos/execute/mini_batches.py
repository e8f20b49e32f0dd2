"""Mini-batches of inner gradient steps: any structure, by TTT's dual form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.chunks import cut, cut_controls, join, live_tokens
from mnemos.execute.request import Request
from mnemos.memory import Controls, Memory, MiniBatch
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


class MiniBatchDual:
    """All gradients of a mini-batch are taken at its first weights W, so each is one outer product d_j h_j^T a weight.
    A product with the weights at token t is then

        W_t x = W x + scale_t (S x - sum_j<=t rate_j (h_j . x) d_j)

    and the weights of single tokens are never formed. S is what an open mini-batch brings along.
    """

    name = "mini-batch dual"
    summary = "matrix products inside each mini-batch, no weights per token; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if not isinstance(memory, Memory) or not isinstance(memory.learner, MiniBatch):
            return "it runs memories that learn by mini-batches (MiniBatch)"
        return None

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
        phase, length, size = state["phase"], q.shape[1], memory.learner.size
        dtype = state[next(iter(state.fresh))].dtype
        inputs = {"q": q, "k": k, "v": v, **controls}
        aligned = not torch.compiler.is_compiling() and not bool(phase.any())
        if aligned:
            live = live_tokens(length, lengths, size, q.device)
        else:  # rows stand at different places of a mini-batch: shift each one to where its own began
            moved, real = shift_to_chunks(list(inputs.values()), phase, lengths, size)
            inputs = dict(zip(inputs, moved, strict=True))
            live = real.view(len(phase), 1, -1, size)
        queries, keys, values = (cut(inputs.pop(name).to(dtype), size) for name in ("q", "k", "v"))
        cut_up = cut_controls(inputs, size, dtype)
        rates, scales = cut_up.pop("rate"), cut_up.pop("scale")
        if live is None:
            touched, newest = None, scales[..., -1]
        else:
            rates = torch.where(live, rates, 0.0)
            touched = live[:, 0].any(-1)  # (B or 1, N): rows with real tokens in each mini-batch
            place = torch.where(live, torch.arange(size, device=q.device), -1).amax(-1, keepdim=True).clamp(min=0)
            newest = scales.gather(-1, place.expand(*scales.shape[:-1], 1))[..., 0]

        names = list(memory.structure.shapes(q.shape[-1], v.shape[-1]))
        weights, anchors, sums = ({n: state[prefix + n] for n in names} for prefix in ("", "anchor.", "sum."))
        opens = (phase == 0)[:, None, None, None]
        outputs = []
        for n in range(keys.shape[2]):
            if n or aligned:
                point, before = weights, {name: torch.zeros_like(sums[name]) for name in names}
            else:
                point = {name: torch.where(opens, weights[name], anchors[name]) for name in names}
                before = {name: torch.where(opens, 0.0, sums[name]) for name in names}
            trace = memory.structure.trace(point, keys[:, :, n])
            judged = {name: value[:, :, n] for name, value in cut_up.items()}
            slopes = trace.pullback(memory.objective.slope(trace.prediction, values[:, :, n], judged))
            steps = {name: slope * rates[:, :, n, :, None] for name, slope in slopes.items()}
            outputs.append(_read(memory, point, before, trace.inputs, steps, scales[:, :, n], queries[:, :, n]))
            after = {name: before[name] - steps[name].mT @ trace.inputs[name] for name in names}
            now = {name: point[name] + newest[:, :, n, None, None] * after[name] for name in names}
            here = None if touched is None else touched[:, n, None, None, None]
            weights, anchors, sums = (_where(here, *pair) for pair in ((now, weights), (point, anchors), (after, sums)))

        out = join(torch.stack(outputs, 2), length if aligned else len(outputs) * size)
        if not aligned:
            out = shift_back(out, phase, length)
        entries: dict[str, Tensor | State] = dict(weights)
        entries |= {f"anchor.{name}": x.clone() if x is state[name] else x for name, x in anchors.items()}
        entries |= {f"sum.{name}": x for name, x in sums.items()}
        entries["phase"] = (phase + (length if lengths is None else lengths)) % size
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


def _where(rows: Tensor | None, new: dict[str, Tensor], old: dict[str, Tensor]) -> dict[str, Tensor]:
    if rows is None:
        return new
    return {name: torch.where(rows, new[name], old[name]) for name in new}
