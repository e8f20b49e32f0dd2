"""Hopfield pooling: learned queries that summarise all that came."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.coupled_decays import EMPTY, prefix_softmax
from mnemos.lowering import run_rows
from mnemos.memory import GD, AnyMemory, Decay, Dot, Hopfield, KVMemory, Matrix, Memory
from mnemos.state import State


@dataclass(frozen=True)
class HopfieldPooling(LayerDeclaration):
    """Hopfield pooling (arXiv 2008.02217): static queries s_1 ... s_n, learned, ask all tokens up to each one.

        y_t = W_o [o_t1 ... o_tn],   o_ti = Hopfield network of the keys W_k x_j, j <= t, at W_q s_i, read as W_v x_j

    x and s are first normalised (LayerNorm). The last token's y is the pooled set, whatever the order of its members.
    Without updates the layer carries a mean and a sum of weights for each query; with them, all keys and values.

    quantity: static queries, each with its part in every head. steps, eps: as in `Hopfield`. scale: None for
    1/sqrt(width / heads).
    """

    quantity: int = 1
    steps: int = 0
    eps: float = 1e-4
    scale: float | None = None

    def __post_init__(self) -> None:
        expect(self.quantity >= 1, f"HopfieldPooling(quantity=) is at least 1; got {self.quantity}.")
        Hopfield(self.steps, self.eps, self.scale)

    @property
    def memory(self) -> AnyMemory:
        """What it runs on: a decaying mean without updates, else all keys and values."""
        if self.steps:
            return KVMemory(read=Hopfield(self.steps, self.eps, self.scale))
        return Memory(Matrix(), Dot(), Decay(per="head"), GD())

    @property
    def kept(self) -> str:
        return "all keys and values" if self.steps else f"{self.quantity} softmax means of all values"

    def build(self, width: int, heads: int) -> HopfieldPoolingLayer:
        return HopfieldPoolingLayer(self, width, heads)


class HopfieldPoolingLayer(Layer):
    """The layer that `HopfieldPooling` describes. Its state: its memory's, and without updates the logarithm of the
    sum of weights of each query."""

    def __init__(self, spec: HopfieldPooling, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        spec.to_json()  # compiled code can only read it
        self.memory.to_json()
        self.query = nn.Parameter(0.02 * torch.randn(spec.quantity, width))
        self.norm, self.query_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(spec.quantity * width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        size = self.width // self.heads
        return (self.heads, size, size) if self.spec.steps else (self.heads * self.spec.quantity, 1, size)

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        dtype = self.memory.state_dtype(dtype)
        memory = self.memory.init(1, *self.memory_sizes, None, dtype, weight.device)
        if self.spec.steps:
            return State(self.owner, {"memory": memory})
        queries = self.heads * self.spec.quantity
        fresh = {"log_sum": torch.full((1, queries), EMPTY, dtype=dtype, device=weight.device)}
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        batch, time = x.shape[:2]
        k, v = (y.unflatten(-1, (self.heads, -1)) for y in self.project(self.norm(x)).chunk(2, -1))
        asked = self.ask(self.query_norm(self.query)).unflatten(-1, (self.heads, -1))  # (n, H, K)
        after: dict[str, Tensor | State] = {}
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            if self.spec.steps:
                q = asked.transpose(0, 1).flatten(0, 1).to(k.dtype).expand(batch, time, -1, -1)
                o, after["memory"] = run_rows(self.memory, q, k, v, {}, state.child("memory"), lengths)
            else:
                dtype = state["log_sum"].dtype
                scale = self.spec.scale or k.shape[-1] ** -0.5
                scores = scale * torch.einsum("bthk,nhk->bthn", k.to(dtype), asked.to(dtype)).flatten(-2)
                decay, left, after["log_sum"] = prefix_softmax(scores, state["log_sum"], lengths)
                v = v.repeat_interleave(self.spec.quantity, 2)
                one = torch.ones_like(v[..., :1])
                controls = {"decay": decay, "rate": left}
                o, after["memory"] = run_rows(self.memory, one, one, v, controls, state.child("memory"), lengths)
        return self.out(o.to(x.dtype).flatten(-2)), state.successor(**after)
