"""Keys that describe the recent past: normalised sums that leak."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.layers.diagonal import wide
from mnemos.lowering import run_rows
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

MEMORY = Memory(Matrix(), Dot(), Decay(per="head"), GD(rate=1.0))
"""The leaky sum, by keys of one channel."""

FASTER = 10.0
"""Learned exponents are stored divided by this, so that an optimiser moves them faster than the weights."""

LARGEST = 5.0
"""The largest exponent of a key's length."""

TINY = 1e-10


class LeakyKeys(nn.Module):
    """Keys of one length a head (Memory Mosaics, arXiv 2405.06394):

        s_t = exp(-|b|) s_t-1 + W x_t,   k_t = exp(min(power a, 5)) s_t / |s_t|

    b and a are learned, one a head. b starts between 0.5 and 5, evenly over the heads, a at 1. Its state is s.
    """

    def __init__(self, width: int, heads: int, power: float = 1.0):
        super().__init__()
        self.heads, self.size, self.power = heads, width // heads, power
        MEMORY.to_json()  # compiled code can only read it
        self.project = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.leak = nn.Parameter(torch.linspace(0.5, 5.0, heads) / FASTER)
        self.scale = nn.Parameter(torch.ones(heads) / FASTER)

    def fresh_state(self) -> State:
        """A one-row state that has seen nothing."""
        weight = self.project.weight
        return MEMORY.init(1, self.heads, 1, self.size, None, MEMORY.state_dtype(weight.dtype), weight.device)

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """x (B, T, width) -> keys (B, T, H, width / H) of at least float32, and the state after."""
        added = wide(self.project(x)).unflatten(-1, (self.heads, -1))
        with torch.autocast(x.device.type, enabled=False):  # the sum keeps its own precision
            one = torch.ones_like(added[..., :1])
            decay = torch.exp(-FASTER * self.leak.to(added.dtype).abs())
            controls = {"decay": decay.expand(added.shape[:-1])}
            total, state = run_rows(MEMORY, one, one, added, controls, state, lengths)
            length = torch.exp((self.power * FASTER * self.scale.to(total.dtype)).clamp(max=LARGEST))
            return unit(total) * length[:, None], state

    def flops(self, length: int) -> float:
        """Floating point operations on one row of `length` tokens, to leading order."""
        return length * (2.0 * self.project.weight.numel() + 4.0 * self.heads * self.size)


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis; zero stays zero."""
    return F.normalize(x, dim=-1, eps=TINY)
