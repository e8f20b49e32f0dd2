"""One token of a chain of weights, gradients off: products with rows, and updates in the state itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_gradient
from mnemos.execute.loop import Loop
from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Memory
from mnemos.memory.structure import Chain
from mnemos.state import State


class ChainStep:
    """What `Memory.advance` does, without its generality: at one token a call, the calls are what costs."""

    name = "chain step"
    summary = "one token by products with rows that update the state in place; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if request.length != 1 or request.training:
            return "it is for a single token with gradients off"
        reason = declines_unless_gradient(memory)
        if reason is None and not isinstance(memory.structure, Chain):
            return "the structure is no chain of weights"
        if reason is None and memory.retention.scaling == "channel":
            return "each key channel has its own decay"
        return reason

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads
        return tokens * memory.step_flops(request.key_dim, request.value_dim, 1)

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
        if lengths is not None:  # rows of no token
            return Loop().run(memory, q, k, v, controls, state, lengths)
        assert isinstance(memory, Memory) and isinstance(memory.learner, GD) and isinstance(memory.structure, Chain)
        state.refuse_if_spent()
        chain, learner, names = memory.structure, memory.learner, memory.structure.names
        entries = {name: tensor.contiguous() for name, tensor in state.tensors()}
        held = [entries[name].flatten(0, 1) for name in names]
        dtype, rows = held[0].dtype, held[0].shape[0]
        query, key, value = (x.to(dtype).reshape(rows, 1, -1) for x in (q, k, v))
        numbers = {name: x.to(dtype).reshape(rows, 1, -1) for name, x in controls.items()}
        decay = numbers.get("decay")

        out = _predict(chain, held, query) if memory.read_timing == "before" else None
        if decay is not None and learner.anchor == "retained":
            for weight in held:
                weight.mul_(decay)
            decay = None
        point = held
        if learner.anchored:
            _reopen(entries, names, learner.chunk)
            point = [entries[f"anchor.{name}"].flatten(0, 1) for name in names]
        judged = {c.name: numbers[c.name] for c in memory.objective.controls}
        judged |= {c.name: judged[c.name][..., 0] for c in memory.objective.controls if c.per == "head"}
        inputs, slopes = _gradient(memory, chain, point, key, value, judged)

        size = -(numbers["rate"] if learner.rate is None else learner.rate)
        for name, weight, x, slope in zip(names, held, inputs, slopes, strict=True):
            step = slope.mul_(size).mT
            if learner.momentum:
                momentum = entries[f"momentum.{name}"].flatten(0, 1)
                momentum.mul_(numbers["momentum"]).addcmul_(step, x)
                if decay is None:
                    weight.add_(momentum)
                else:
                    torch.addcmul(momentum, weight, decay, out=weight)
            else:
                if decay is not None:
                    weight.mul_(decay)
                weight.addcmul_(step, x)
        if out is None:
            out = _predict(chain, held, query)
        state.spend()
        return out.view(q.shape[0], 1, q.shape[2], -1).to(v.dtype), state.successor(**entries)


def _predict(chain: Chain, weights: list[Tensor], x: Tensor) -> Tensor:
    """M(x) for one token a row, (B * H, 1, K)."""
    h = x
    for weight in weights[:-1]:
        h = chain.act(torch.bmm(h, weight.mT))
    return chain.end(x, torch.bmm(h, weights[-1].mT))


def _gradient(
    memory: Memory, chain: Chain, point: list[Tensor], key: Tensor, value: Tensor, judged: Controls
) -> tuple[list[Tensor], list[Tensor]]:
    """Each weight's input, and the loss's derivative at its output."""
    inputs, outputs = [key], []
    for weight in point:
        outputs.append(torch.bmm(inputs[-1], weight.mT))
        if len(inputs) < len(point):
            inputs.append(chain.act(outputs[-1]))
    slope = memory.objective.slope(chain.end(key, outputs[-1]), value, judged)
    slopes = [chain.end_pullback(outputs[-1], slope)]
    for z, above in zip(outputs[-2::-1], point[:0:-1], strict=True):
        slopes.insert(0, chain.act_slope(z).mul_(torch.bmm(slopes[0], above)))
    return inputs, slopes


def _reopen(entries: dict[str, Tensor], names: tuple[str, ...], chunk: int) -> None:
    """Where a chunk opens, the gradient point becomes the present weight; every row is a token further in its chunk."""
    phase = entries["phase"]
    compiling = torch.compiler.is_compiling()
    places = [] if compiling else phase.tolist()
    if compiling or 0 in places:  # copying the weights at every step would cost more than the rest of it
        opens = (phase == 0)[:, None, None, None]
        for name in names:
            anchor, weight = entries[f"anchor.{name}"], entries[name]
            anchor.copy_(weight if places and not any(places) else torch.where(opens, weight, anchor))
    entries["phase"] = (phase + 1) % chunk
