"""Attention through a few agents: they read the past for all queries, and the queries read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.convolution import ShortConvolution
from mnemos.layers.coupled_decays import EMPTY, prefix_softmax
from mnemos.lowering import run_rows
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

MEMORY = Memory(Matrix(), Dot(), Decay(per="channel"), GD(rate=1.0))
"""What each agent has read so far: a key channel an agent."""


@dataclass(frozen=True)
class Agents(LayerDeclaration):
    """Agent attention (arXiv 2312.08874), causal, with learned agents a_1 .. a_n a head:

        u_ti = sum_{j <= t} softmax_j(a_i . k_j / sqrt(K)) v_j       the agents read
        o_t = sum_i softmax_i(q_t . a_i / sqrt(K)) u_ti + conv(v)_t   the query reads the agents

    It is linear attention with the features softmax(q_t a^T) of queries and exp(a k_j^T) / s_t of keys, s_t the sum of
    exp(a k_j^T) so far, agent by agent: a memory of constant size that forgets by s_t-1 / s_t.

    agents: how many a head. conv: size of a causal convolution of v, channel by channel; None for none.
    """

    agents: int = 16
    conv: int | None = 3

    def __post_init__(self) -> None:
        expect(self.agents >= 1, f"Agents(agents=) is a number of vectors a head of at least 1; got {self.agents}.")
        expect(self.conv is None or self.conv >= 2, f"Agents(conv=) spans at least 2 tokens; got {self.conv}.")

    @property
    def kept(self) -> str:
        return f"what {self.agents} agents a head have read"

    def build(self, width: int, heads: int) -> AgentsLayer:
        return AgentsLayer(self, width, heads)


class AgentsLayer(Layer):
    """The layer that `Agents` describes. Its state: what each agent has read, the logarithm of the sum of its
    weights, and the last values for the convolution."""

    def __init__(self, spec: Agents, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, MEMORY
        spec.to_json()  # compiled code can only read it
        MEMORY.to_json()
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.agents = nn.Parameter(torch.randn(heads, spec.agents, width // heads))
        self.conv = ShortConvolution(width, spec.conv) if spec.conv else None
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.spec.agents, self.width // self.heads

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = MEMORY.state_dtype(weight.dtype)
        memory = MEMORY.init(1, *self.memory_sizes, None, dtype, weight.device)
        fresh = {"log_sum": torch.full((1, self.heads, self.spec.agents), EMPTY, dtype=dtype, device=weight.device)}
        if self.conv is not None:
            kept = computed_in(weight)
            fresh["conv"] = torch.zeros(1, self.conv.size - 1, self.width, dtype=kept, device=weight.device)
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        entries: dict[str, Tensor | State] = {}
        mixed = self.project(x)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in mixed.chunk(3, -1))
        dtype = state["log_sum"].dtype
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            agents = self.agents.to(dtype).mT / math.sqrt(q.shape[-1])  # (H, K, n)
            asked, heard = ((y.to(dtype)[..., None, :] @ agents)[..., 0, :] for y in (q, k))
            decay, left, entries["log_sum"] = prefix_softmax(heard, state["log_sum"], lengths)
            controls = {"decay": decay}
            shares = torch.softmax(asked, -1)
            inputs = (shares, left, v.to(dtype))
            o, entries["memory"] = run_rows(MEMORY, *inputs, controls, state.child("memory"), lengths)
        o = o.flatten(-2).to(mixed.dtype)
        if self.conv is not None:
            local, entries["conv"] = self.conv(v.flatten(-2), state["conv"], lengths)
            o = o + local
        return self.out(o), state.successor(**entries)

    def flops(self, length: int) -> float:
        through = 4.0 * self.agents.numel()
        matrices = self.project.weight.numel() + self.out.weight.numel()
        return self.plan(length).flops + length * (through + 2.0 * matrices)
