"""The layer of test-time training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.convolution import ShortConvolution
from mnemos.lowering import run_rows
from mnemos.memory import AffineL2, Keep, Memory, MiniBatch, NormedMLP
from mnemos.memory.rotary import rotate
from mnemos.state import State

ROTARY = 10000.0


@dataclass(frozen=True)
class TTT(LayerDeclaration):
    """The layer of test-time training (arXiv 2407.04620) with the backbone of Mamba. Per head,

        q, k = convolutions of W_qk x, turned by the place in the mini-batch,   v = W_v x
        rate = step / head_dim * sigmoid(w x + b),   scale = max(1 / place + a_place, 0),   place = 1 .. size
        z = q + gain * memory(q; k, v - k) + shift
        y = W_o (norm(z) * gelu(W_g x))                              the norm over all heads together

    so that the memory learns the function f(k) = k + gain * M(k) + shift = v. gain and shift (per head and channel)
    and a (per place) are learned, and reach the memory as controls. memory: takes rate, scale, gain and shift, as
    Memory(NormedMLP(), AffineL2(), Keep(), MiniBatch(16)) does. step: of the inner loop. conv: size of both
    convolutions.
    """

    memory: Memory = field(default_factory=lambda: Memory(NormedMLP(), AffineL2(), Keep(), MiniBatch()))
    step: float = 1.0
    conv: int = 4

    def __post_init__(self) -> None:
        example = "Memory(NormedMLP(), AffineL2(), Keep(), MiniBatch(16))"
        expect_kind(self.memory, Memory, "memory", example)
        taken = {control.name for control in self.memory.controls}
        expect(
            taken == {"rate", "scale", "gain", "shift"},
            f"TTT(memory=) takes the controls rate, scale, gain and shift, as {example} does; got {self.memory}.",
        )
        expect(self.step > 0, f"TTT(step=) must be positive; got {self.step}.")
        expect(self.conv >= 2, f"TTT(conv=) spans at least 2 tokens; got {self.conv}.")

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> TTTLayer:
        return TTTLayer(self, width, heads)


class TTTLayer(Layer):
    """The layer that `TTT` describes. Its state: the memory's, the convolutions' last inputs, the tokens seen."""

    def __init__(self, spec: TTT, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        assert isinstance(spec.memory.learner, MiniBatch)
        self.size = spec.memory.learner.size
        self.head_dim = width // heads
        expect(self.head_dim % 2 == 0, f"rotation needs an even number of channels a head; got {self.head_dim}.")
        self.shared = nn.Linear(width, width, bias=False)
        self.values = nn.Linear(width, width, bias=False)
        self.conv = ShortConvolution(2 * width, spec.conv)
        self.rate = nn.Linear(width, heads)
        nn.init.normal_(self.rate.weight, std=0.02)
        nn.init.zeros_(self.rate.bias)
        self.place = nn.Parameter(torch.zeros(self.size))
        self.gain = nn.Parameter(torch.ones(heads, self.head_dim))
        self.shift = nn.Parameter(torch.zeros(heads, self.head_dim))
        weights = self.memory.initial_weights(heads, self.head_dim, self.head_dim)
        self.initial = nn.ParameterDict({name: nn.Parameter(weight) for name, weight in weights.items()})
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.head_dim, self.head_dim

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        sizes = (self.heads, self.head_dim, self.head_dim)
        memory = self.memory.init(1, *sizes, dict(self.initial.items()), self.memory.state_dtype(dtype), weight.device)
        fresh = {
            "conv": torch.zeros(1, self.spec.conv - 1, 2 * self.width, dtype=dtype, device=weight.device),
            "count": torch.zeros(1, dtype=torch.int64, device=weight.device),
        }
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        count, length = state["count"], x.shape[1]
        place = (count[:, None] + torch.arange(length, device=x.device)) % self.size
        both, past = self.conv(self.shared(x).repeat(1, 1, 2), state["conv"], lengths)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (*both.chunk(2, -1), self.values(x)))
        q, k = rotate(q, place, ROTARY), rotate(k, place, ROTARY)
        rate, by_place = (y if y.dtype == torch.float64 else y.float() for y in (self.rate(x), self.place))
        scale = (1 / torch.arange(1, self.size + 1, device=x.device) + by_place).clamp(min=0)[place]
        controls = {
            "rate": self.spec.step / self.head_dim * torch.sigmoid(rate),
            "scale": scale[..., None].expand(-1, -1, self.heads),
            "gain": self.gain.expand(*x.shape[:2], -1, -1),
            "shift": self.shift.expand(*x.shape[:2], -1, -1),
        }
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, q, k, v - k, controls, state.child("memory"), lengths)
        z = q + self.gain * o.to(q.dtype) + self.shift
        y = self.norm(z.flatten(-2).to(self.norm.weight.dtype)).to(x.dtype)
        seen = count + (length if lengths is None else lengths)
        y = y * F.gelu(self.gate(x), approximate="tanh")
        return self.out(y), state.successor(memory=memory, conv=past, count=seen)

    def flops(self, length: int) -> float:
        matrices = [self.shared, self.values, self.rate, self.gate, self.out]
        return self.plan(length).flops + 2.0 * sum(m.weight.numel() for m in matrices) * length
