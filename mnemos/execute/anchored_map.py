"""Anchored gradients behind a mirror map: the dual states of a chunk by one product, all linked together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mnemos.execute.anchored import AnchoredDual, PlainChunk
from mnemos.execute.base import declines_unless_kind
from mnemos.execute.coefficients import Coefficients
from mnemos.execute.request import Request
from mnemos.memory import GD, Memory


class AnchoredMap(AnchoredDual):
    """Where the state is a dual A and the weights are link(A), A is as linear in the writes of a chunk as the weights
    of `AnchoredDual`, but a read needs link(A_t). All A_t of a chunk are formed by one product

        A_t = carry_t A_0 + carry_momentum_t S_0 - sum_j write_tj d_j h_j^T

    and linked at once. With gradients on they are made again in the backward pass: one chunk's weights are held at a
    time, chunk times the state.
    """

    name = "anchored map"
    summary = "the dual states of a gradient chunk formed by one product and linked together; exact"

    heavy = True

    def declines(self, memory: Any, request: Request) -> str | None:
        if (other := declines_unless_kind(memory, learner=GD)) is not None:
            return other
        if not memory.learner.anchored:
            return "gradients are taken token by token, not at the start of a chunk (GD(anchor=Chunk(n)))"
        if memory.retention.dual_scaling is None:
            return f"{memory.retention} keeps no dual state that is only scaled and added to"
        return None

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        shapes = memory.structure.shapes(request.key_dim, request.value_dim).values()
        size = sum(o * i for o, i in shapes)
        return float(tokens * size * (2 * memory.learner.chunk + 10))

    def chunk(self, memory: Memory, c: Coefficients, key_dim: int, value_dim: int) -> PlainChunk:
        rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
        return LinkedChunk(memory, c, rows, list(memory.structure.shapes(key_dim, value_dim)))


class LinkedChunk(PlainChunk):
    """Runs a chunk whose weights are linked token by token."""

    def read(
        self,
        c: Coefficients,
        parts: dict[str, list[Tensor]],
        inputs: dict[str, Tensor],
        slopes: dict[str, Tensor],
        query: Tensor,
    ) -> Tensor:
        linked = {}
        for name, (weight, *momentum) in parts.items():
            written = slopes[name][..., :, :, None] * inputs[name][..., :, None, :]
            states = (c.write[..., 0, self.rows, :] @ written.flatten(-2)).unflatten(-1, written.shape[-2:])
            states = c.carry[..., 0, self.rows, None, None] * weight.unsqueeze(-3) - states
            if c.carry_momentum is not None:
                states = states + c.carry_momentum[..., 0, self.rows, None, None] * momentum[0].unsqueeze(-3)
            linked[name] = self.memory.retention.link(states)
        forward = self.memory.structure.forward
        return forward(lambda name, x: x @ linked[name].mT, query.unsqueeze(-2)).squeeze(-2)
