"""GateLoop: a complex recurrence whose factor, magnitude and phase, is made from the input."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.diagonal import DiagonalLayer, wide
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State


@dataclass(frozen=True)
class GateLoop(LayerDeclaration):
    """GateLoop with as many heads as channels (arXiv 2311.01927):

        q, k, v = W x (no bias),  a = sigmoid(W_m x + b_m) exp(j (W_p x + b_p))
        h_t = a_t h_t-1 + k_t v_t                              complex, channel by channel
        y = W_o (q Re(h) * silu(W_g x))

    Its state holds Re(h) and Im(h), one below the other: the memory (B, H, 2 width / H, 1).
    """

    @property
    def memory(self) -> Memory:
        """h, by keys of one channel."""
        return Memory(Matrix(), Dot(), Decay(per="pair", rotate="value"), GD(rate=1.0))

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, a complex channel each"

    def build(self, width: int, heads: int) -> GateLoopLayer:
        return GateLoopLayer(self, width, heads)


class GateLoopLayer(DiagonalLayer):
    """The layer that `GateLoop` describes."""

    def __init__(self, spec: GateLoop, width: int, heads: int):
        check_width(width, heads)
        super().__init__(spec, spec.memory, width, heads, heads, 2 * width // heads)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.magnitude, self.phase = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.magnitude, self.phase):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.uniform_(self.phase.bias, 0, math.pi / 10)
        self.magnitude.bias.data.copy_(torch.logit(torch.empty(width).uniform_(0.9, 0.999)))
        self.gate, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        q, k, v = self.project(x).chunk(3, -1)
        decay, angle = torch.sigmoid(wide(self.magnitude(x))), wide(self.phase(x))
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            added = self._by_head(wide(k) * wide(v))
            controls = {"decay": self._by_head(decay), "angle": self._by_head(angle)}
            h, memory = self.recur(torch.cat([added, torch.zeros_like(added)], -1), controls, state, lengths)
            real = h.chunk(2, -1)[0].flatten(-2)
        y = self.out(q * real.to(q.dtype) * F.silu(self.gate(x)))
        return y, state.successor(memory=memory)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))
