"""Attention with one head of queries, keys and values, of which learned vectors make many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.lowering import run_rows
from mnemos.memory import Append, Everything, KVMemory, Retain, Softmax
from mnemos.state import State


@dataclass(frozen=True)
class HeadEmbeddings(LayerDeclaration):
    """Multi-head embeddings attention (arXiv 2310.07911): q, k, v = W x of a single head's width, and for head i

        "mul":  q_i = q * (1 + a_i),  k_i = k * (1 + b_i),  v_i = v * (1 + c_i)
        "add":  q_i = q + a_i,        k_i = k,              v_i = v + c_i
        o_i = sum_j softmax_j(q_i . k_ij / sqrt(K)) v_ij,   y = W_o [o_1 .. o_H]

    The memory keeps k and v of one head for all: b_i multiplies the queries in place of the keys, c_i the answers in
    place of the values. A b_i that is added to the keys adds the same to all scores of a query and is left out.

    combine: "mul" or "add". retain: which of the entries stay.
    """

    combine: Literal["mul", "add"] = "mul"
    retain: Retain = field(default_factory=Everything)

    def __post_init__(self) -> None:
        expect(self.combine in ("mul", "add"), f'HeadEmbeddings(combine=) is "mul" or "add"; got {self.combine!r}.')
        expect_kind(self.retain, Retain, "retain", "Everything() or Window(256)")

    @property
    def memory(self) -> KVMemory:
        """What keeps the shared keys and values."""
        return KVMemory(write=Append(), retain=self.retain, read=Softmax())

    @property
    def kept(self) -> str:
        return f"{self.memory.kept} of one head"

    def build(self, width: int, heads: int) -> HeadEmbeddingsLayer:
        return HeadEmbeddingsLayer(self, width, heads)


class HeadEmbeddingsLayer(Layer):
    """The layer that `HeadEmbeddings` describes. Its state: `memory`, the entries of one head."""

    def __init__(self, spec: HeadEmbeddings, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        spec.to_json()  # compiled code can only read it
        self.memory.to_json()
        size = width // heads
        self.project = nn.Linear(width, 3 * size, bias=False)
        self.query = nn.Parameter(0.02 * torch.randn(heads, size))
        self.key = nn.Parameter(0.02 * torch.randn(heads, size)) if spec.combine == "mul" else None
        self.value = nn.Parameter(0.02 * torch.randn(heads, size))
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def fresh_state(self) -> State:
        weight, size = self.out.weight, self.width // self.heads
        dtype = computed_in(weight)
        memory = self.memory.init(1, 1, size, size, None, self.memory.state_dtype(dtype), weight.device)
        return State(self.owner, {"memory": memory})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        q, k, v = self.project(x)[:, :, None].chunk(3, -1)  # (B, T, 1, K) each
        a, c = self.query.to(q.dtype), self.value.to(q.dtype)
        if self.key is None:
            q = q + a
        else:
            q = q * (1 + a) * (1 + self.key.to(q.dtype))
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, q, k, v, {}, state.child("memory"), lengths)
        o = o + c if self.key is None else o * (1 + c)
        return self.out(o.flatten(-2)), state.successor(memory=memory)

    def flops(self, length: int) -> float:
        return self.plan(length).flops + 2.0 * (self.project.weight.numel() + self.out.weight.numel()) * length
