"""Softmax attention with a query that does not depend on the input: a recurrence with a constant state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.layers.coupled_decays import EMPTY, prefix_softmax
from mnemos.lowering import run_rows
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

MEMORY = Memory(Matrix(), Dot(), Decay(per="head"), GD())


@dataclass(frozen=True)
class ConstantQuery(LayerDeclaration):
    """o_t = sum_{j <= t} softmax_j(q . k_j / sqrt(K)) v_j with one learned q a head (Aaren, arXiv 2405.13956).

    With s_t = sum_{j <= t} exp(q . k_j / sqrt(K)) this is the recurrence o_t = (s_t-1 / s_t) o_t-1 + (1 - s_t-1 / s_t)
    v_t, a memory of a single key channel.
    """

    @property
    def kept(self) -> str:
        return "the softmax mean of all values"

    def build(self, width: int, heads: int) -> ConstantQueryLayer:
        return ConstantQueryLayer(self, width, heads)


class ConstantQueryLayer(Layer):
    """The layer that `ConstantQuery` describes. Its state: the mean so far, and the logarithm of its weights' sum."""

    def __init__(self, spec: ConstantQuery, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, MEMORY
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.ask = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, 1, self.width // self.heads

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = MEMORY.state_dtype(weight.dtype)
        memory = MEMORY.init(1, self.heads, 1, self.width // self.heads, None, dtype, weight.device)
        fresh = {"log_sum": torch.full((1, self.heads), EMPTY, dtype=dtype, device=weight.device)}
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        k, v = (y.unflatten(-1, (self.heads, -1)) for y in self.project(x).chunk(2, -1))
        q = self.ask(self.query).view(self.heads, -1)
        dtype = state["log_sum"].dtype
        scores = (k.to(dtype) * q.to(dtype)).sum(-1) / math.sqrt(k.shape[-1])
        decay, left, log_sum = prefix_softmax(scores, state["log_sum"], lengths)
        one = torch.ones_like(v[..., :1])
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            controls = {"decay": decay, "rate": left}
            o, memory = run_rows(MEMORY, one, one, v, controls, state.child("memory"), lengths)
        return self.out(o.flatten(-2)), state.successor(memory=memory, log_sum=log_sum)
