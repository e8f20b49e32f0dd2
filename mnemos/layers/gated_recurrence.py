"""Griffin's recurrent block: a convolution and the real-gated linear recurrent unit, times a branch of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.convolution import ShortConvolution
from mnemos.layers.diagonal import DiagonalLayer, wide
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

STEEPEST = 1000.0
"""The largest slope that the gradient sees of the square root, which is steep where nothing is forgotten."""


@dataclass(frozen=True)
class GatedRecurrence(LayerDeclaration):
    """The recurrent block of Griffin (arXiv 2402.19427), around the RG-LRU:

        x = conv(W_x u + b_x) + b_c
        r = sigmoid(A x + b_r),  i = sigmoid(C x + b_i)        A, C block-diagonal, one block a head
        a = exp(-power softplus(L) r)
        h_t = a_t h_t-1 + sqrt(1 - a_t^2) i_t x_t              the first token of a document: h_t = i_t x_t
        y = W_o (h * gelu(W_y u + b_y)) + b_o

    expand: channels of h over width. conv: tokens that the convolution spans. power: c in the paper. Its state holds
    the memory (B, H, D/H, 1), the last conv - 1 inputs of the convolution and how many tokens it has seen.
    """

    expand: float = 1.0
    conv: int = 4
    power: float = 8.0

    def __post_init__(self) -> None:
        expect(self.expand > 0, f"GatedRecurrence(expand=) must be positive; got {self.expand}.")
        expect(self.conv >= 2, f"GatedRecurrence(conv=) spans at least 2 tokens; got {self.conv}.")
        expect(self.power > 0, f"GatedRecurrence(power=) must be positive; got {self.power}.")

    @property
    def memory(self) -> Memory:
        """h, by keys of one channel."""
        return Memory(Matrix(), Dot(), Decay(per="value"), GD(rate=1.0))

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, a channel each"

    def build(self, width: int, heads: int) -> GatedRecurrenceLayer:
        return GatedRecurrenceLayer(self, width, heads)


class GatedRecurrenceLayer(DiagonalLayer):
    """The layer that `GatedRecurrence` describes."""

    def __init__(self, spec: GatedRecurrence, width: int, heads: int):
        check_width(width, heads)
        inner = round(width * spec.expand)
        expect(
            inner >= heads and inner % heads == 0,
            f"width * expand = {inner} channels cannot be shared between {heads} heads; choose another width or heads.",
        )
        super().__init__(spec, spec.memory, width, heads, heads, inner // heads)
        self.inner, self.power = inner, spec.power
        self.branch, self.recurrent = nn.Linear(width, inner), nn.Linear(width, inner)
        self.conv, self.conv_bias = ShortConvolution(inner, spec.conv), nn.Parameter(torch.zeros(inner))
        nn.init.normal_(self.conv.weight, std=(0.01 / spec.conv) ** 0.5)
        block = self.channels
        self.gates = nn.Parameter(torch.randn(2, heads, block, block) / block**0.5)  # A and C
        self.gate_biases = nn.Parameter(torch.zeros(2, heads, block))
        kept = torch.empty(heads, block).uniform_(0.9**2, 0.999**2).sqrt()  # a at r = 1
        self.forgetting = nn.Parameter(torch.log(torch.expm1(-kept.log() / spec.power)))  # L
        self.out = nn.Linear(inner, width)

    def fresh_state(self) -> State:
        fresh = {
            "conv": torch.zeros(1, self.conv.size - 1, self.inner, dtype=self.dtype, device=self.device),
            "count": torch.zeros(1, dtype=torch.int64, device=self.device),
        }
        return State(self.owner, {"memory": self.fresh_memory(), **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        mixed, past = self.conv(self.recurrent(x), state["conv"], lengths)
        count, length = state["count"], x.shape[1]
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            value = wide(mixed + self.conv_bias.to(mixed.dtype)).unflatten(-1, (self.heads, -1))
            decay, written = self.gated(value, count == 0)
            h, memory = self.recur(written, {"decay": decay}, state, lengths)
        y = self.out(h.flatten(-2).to(mixed.dtype) * F.gelu(self.branch(x), approximate="tanh"))
        seen = count + (length if lengths is None else lengths)
        return y, state.successor(memory=memory, conv=past.to(state["conv"].dtype), count=seen)

    def gated(self, x: Tensor, opens: Tensor) -> tuple[Tensor, Tensor]:
        """a and sqrt(1 - a^2) i x for x (B, T, H, D/H); opens (B,): whether a row's first token opens a document."""
        gates, biases = self.gates.to(x.dtype), self.gate_biases.to(x.dtype)
        r, i = (torch.sigmoid(torch.einsum("bthi,hij->bthj", x, gates[n]) + biases[n]) for n in range(2))
        log_a = r * (-self.power * F.softplus(self.forgetting.to(x.dtype)))
        scale = _BoundedSqrt.apply(-torch.expm1(2 * log_a))
        assert isinstance(scale, Tensor)
        first = torch.where(opens[:, None, None, None], 1.0, scale[:, :1])
        return log_a.exp(), torch.cat([first, scale[:, 1:]], 1) * (i * x)


class _BoundedSqrt(torch.autograd.Function):
    """sqrt(x), x >= 0, whose slope 1 / (2 sqrt(x)) counts as at most STEEPEST."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sqrt()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (4 * x).clamp(min=STEEPEST**-2).rsqrt()
