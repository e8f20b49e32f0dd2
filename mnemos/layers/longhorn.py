"""Longhorn's layer: an online learner in the place of Mamba's state space model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.convolution import ShortConvolution
from mnemos.lowering import run_rows
from mnemos.memory import L2, Implicit, Keep, Matrix, Memory
from mnemos.state import State


@dataclass(frozen=True)
class Longhorn(LayerDeclaration):
    """The layer of Longhorn (arXiv 2407.14207), Mamba's with another inside:

        x, z = W u,   x = silu(conv(x)),   r, k, q = W_x x,   b = sigmoid(W_r r + bias)
        S_t = memory(k_t, x_t, b_t),   o = S_t q + D x,   y = W_o (o * silu(z))

    One memory for all channels, whatever the number of heads. memory: takes a rate alone, a value channel or a head.
    state_dim: channels of k and q. expand: x has width times this many channels. conv: size of the convolution.
    rank: channels of r; None for width / 16, rounded up.
    """

    memory: Memory = field(default_factory=lambda: Memory(Matrix(), L2(), Keep(), Implicit(diagonal=True)))
    state_dim: int = 16
    expand: float = 2.0
    conv: int = 4
    rank: int | None = None

    def __post_init__(self) -> None:
        expect_kind(self.memory, Memory, "memory", "Memory(Matrix(), L2(), Keep(), Implicit(diagonal=True))")
        taken = [(control.name, control.per) for control in self.memory.controls]
        expect(
            taken in ([("rate", "value")], [("rate", "head")]) and not self.memory.structure.learned,
            "Longhorn(memory=) takes a rate alone and starts from nothing, such as Memory(Matrix(), L2(), Keep(), "
            f"Implicit(diagonal=True)); got {self.memory}.",
        )
        expect(self.state_dim >= 1, f"Longhorn(state_dim=) must be at least 1; got {self.state_dim}.")
        expect(self.expand > 0, f"Longhorn(expand=) must be positive; got {self.expand}.")
        expect(self.conv >= 2, f"Longhorn(conv=) spans at least 2 tokens; got {self.conv}.")
        expect(self.rank is None or self.rank >= 1, f"Longhorn(rank=) must be at least 1; got {self.rank}.")

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> LonghornLayer:
        return LonghornLayer(self, width, heads)


class LonghornLayer(Layer):
    """The layer that `Longhorn` describes. Its state: the memory's, and the convolution's last inputs."""

    def __init__(self, spec: Longhorn, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        self.inner = round(width * spec.expand)
        expect(self.inner >= 1, f"width * expand leaves no channel; got width={width}, expand={spec.expand}.")
        self.parts = [spec.rank or math.ceil(width / 16), spec.state_dim, spec.state_dim]
        self.by_channel = spec.memory.controls[0].per == "value"
        self.project = nn.Linear(width, 2 * self.inner, bias=False)
        self.conv = ShortConvolution(self.inner, spec.conv)
        self.conv_bias = nn.Parameter(torch.zeros(self.inner))
        self.select = nn.Linear(self.inner, sum(self.parts), bias=False)
        self.rate = nn.Linear(self.parts[0], self.inner if self.by_channel else 1)
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return 1, self.spec.state_dim, self.inner

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        state_dtype = self.memory.state_dtype(dtype)
        memory = self.memory.init(1, 1, self.spec.state_dim, self.inner, None, state_dtype, weight.device)
        fresh = {"conv": torch.zeros(1, self.spec.conv - 1, self.inner, dtype=dtype, device=weight.device)}
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        v, z = self.project(x).chunk(2, -1)
        v, past = self.conv(v, state["conv"], lengths)
        v = F.silu(v + self.conv_bias.to(v.dtype))
        low, k, q = self.select(v).split(self.parts, -1)
        rate = self.rate(low)
        rate = torch.sigmoid(rate if rate.dtype == torch.float64 else rate.float())
        controls = {"rate": rate[:, :, None] if self.by_channel else rate}
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            key, value, query = k[:, :, None], v[:, :, None], q[:, :, None]
            o, memory = run_rows(self.memory, query, key, value, controls, state.child("memory"), lengths)
        o = o[:, :, 0].to(v.dtype) + self.skip.to(v.dtype) * v
        return self.out(o * F.silu(z)), state.successor(memory=memory, conv=past)
