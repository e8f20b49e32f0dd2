"""What layers around an elementwise recurrence share: a memory with keys of one channel, all of them 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnemos.layers.base import Layer, LayerDeclaration, computed_in
from mnemos.lowering import run_rows
from mnemos.memory import Controls, Memory
from mnemos.state import State


class DiagonalLayer(Layer):
    """h_t = decay_t h_t-1 + v_t, element by element: a `Memory` of Dot with k = q = 1 reads its own state.

    groups, channels: its heads and value_dim. Subclasses give `rows`.
    """

    def __init__(self, spec: LayerDeclaration, memory: Memory, width: int, heads: int, groups: int, channels: int):
        super().__init__()
        self.spec, self.memory, self.width, self.heads = spec, memory, width, heads
        self.groups, self.channels = groups, channels

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.groups, 1, self.channels

    def fresh_state(self) -> State:
        return State(self.owner, {"memory": self.fresh_memory()})

    def fresh_memory(self) -> State:
        """Its memory, of one row that has seen nothing."""
        wide = self.memory.state_dtype(self.dtype)
        return self.memory.init(1, self.groups, 1, self.channels, None, wide, self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations."""
        return computed_in(next(self.parameters()))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def recur(self, v: Tensor, controls: Controls, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """All h for v (B, T, groups, channels), and the memory's state after."""
        one = torch.ones_like(v[..., :1])
        return run_rows(self.memory, one, one, v, controls, state.child("memory"), lengths)

    def flops(self, length: int) -> float:
        matrices = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return self.plan(length).flops + 2.0 * matrices * length


def wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()
