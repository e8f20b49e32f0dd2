"""Fast and forgetful memory: traces that fade at fixed speeds and oscillate at fixed frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.diagonal import DiagonalLayer, wide
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

FASTEST = math.log(torch.finfo(torch.float64).max) / 1024 - 0.02
"""The largest decay rate at the start; the paper's closed form overflows beyond it."""


@dataclass(frozen=True)
class FastForgetful(LayerDeclaration):
    """Fast and forgetful memory (arXiv 2310.04128), with m traces and c contexts:

        x' = (W_1 x + b_1) * sigmoid(W_2 x + b_2)                      (m,)
        S_t[j, k] = exp(-alpha_j + i omega_k) S_t-1[j, k] + x'_t[j]    complex (m, c)
        g = sigmoid(W_4 x + b_4)
        y = layernorm(W_3 [Re S, Im S] + b_3) * g + (W_5 x + b_5) * (1 - g)

    alpha > 0 and omega are learned numbers, not made from the input. At the start the slowest trace fades to 1% and
    the slowest context turns once in `span` tokens. The width need not be a multiple of anything: the memory has one
    head a context, whatever the model's `heads`.
    """

    traces: int = 32
    contexts: int = 4
    span: int = 1024

    def __post_init__(self) -> None:
        for name in ("traces", "contexts", "span"):
            expect(getattr(self, name) >= 1, f"FastForgetful({name}=) must be at least 1; got {getattr(self, name)}.")

    @property
    def memory(self) -> Memory:
        """S, one head a context."""
        return Memory(Matrix(), Dot(), Decay(per="pair", rotate="value"), GD(rate=1.0))

    @property
    def kept(self) -> str:
        return f"{self.traces} traces at {self.contexts} frequencies"

    def build(self, width: int, heads: int) -> FastForgetfulLayer:
        return FastForgetfulLayer(self, width, heads)


class FastForgetfulLayer(DiagonalLayer):
    """The layer that `FastForgetful` describes."""

    def __init__(self, spec: FastForgetful, width: int, heads: int):
        check_width(width, heads)
        traces, contexts = spec.traces, spec.contexts
        super().__init__(spec, spec.memory, width, heads, contexts, 2 * traces)
        self.sizes = [traces, traces, width, width]
        self.project = nn.Linear(width, sum(self.sizes))
        self.read = nn.Linear(2 * traces * contexts, width)
        self.forgetting = nn.Parameter(torch.linspace(FASTEST, -math.log(0.01) / spec.span, traces))  # alpha
        self.frequency = nn.Parameter(2 * math.pi / torch.linspace(1, spec.span, contexts))  # omega

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        value, entry, gate, skip = self.project(x).split(self.sizes, -1)
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            added = wide(value) * torch.sigmoid(wide(entry))
            decay, angle = self.factors(added.dtype)
            shape = (*x.shape[:2], self.groups, self.traces)
            controls = {"decay": decay.expand(shape), "angle": angle.expand(shape)}
            added = torch.cat([added, torch.zeros_like(added)], -1)[:, :, None].expand(-1, -1, self.groups, -1)
            h, memory = self.recur(added, controls, state, lengths)
        g = torch.sigmoid(gate)
        z = F.layer_norm(self.read(h.flatten(-2).to(x.dtype)), (self.width,))
        return z * g + skip * (1 - g), state.successor(memory=memory)

    @property
    def traces(self) -> int:
        return self.channels // 2

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Magnitude and angle of every element's factor, (traces,) and (contexts, 1)."""
        fading = self.forgetting.to(dtype).clamp(min=1e-8)
        return torch.exp(-fading), self.frequency.to(dtype)[:, None]
