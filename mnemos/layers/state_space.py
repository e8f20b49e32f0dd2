"""Mamba-2's layer: a selective state space model with a scalar decay a head."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.controls import default_rule
from mnemos.layers.convolution import ShortConvolution
from mnemos.layers.norm import RMSNorm
from mnemos.lowering import run_rows
from mnemos.memory import GD, AnyMemory, Decay, Dot, Matrix, Memory
from mnemos.state import State


@dataclass(frozen=True)
class StateSpace(LayerDeclaration):
    """The layer of Mamba-2, structured state space duality (arXiv 2405.21060, section 7). Per head,

        z, x, B, C, dt = W u,   x, B, C through one convolution and SiLU,   dt = softplus(dt + bias)
        h_t = exp(-exp(A) dt_t) h_t-1 + dt_t x_t B_t^T,   o_t = h_t C_t + D x_t
        y = W_o norm(o * silu(z))                                     the norm over all heads together

    so that C asks, B is the key, x the value, dt the rate, and dt sets the decay as well: dt = 0 skips a token, a
    large dt starts afresh.

    memory: what h is; it takes a rate and a decay a head, and any further control by a layer's default rule.
    state_dim: channels of B and C. groups: sets of B and C, shared by heads / groups heads each. expand: all heads' x
    together have width times this many channels. conv: size of the convolution.
    """

    memory: AnyMemory = field(default_factory=lambda: Memory(Matrix(), Dot(), Decay(), GD()))
    state_dim: int = 64
    groups: int = 1
    expand: float = 2.0
    conv: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.memory, AnyMemory):
            raise InvalidType(
                "StateSpace(memory=) takes a memory, for example Memory(Matrix(), Dot(), Decay(), GD()); "
                f"got {self.memory!r}."
            )
        learned = isinstance(self.memory, Memory) and self.memory.structure.learned
        taken = {(control.name, control.per) for control in self.memory.controls}
        expect(
            taken >= {("rate", "head"), ("decay", "head")} and not learned,
            "StateSpace(memory=) takes a rate and a decay a head and starts from nothing, such as "
            f"Memory(Matrix(), Dot(), Decay(), GD()); got {self.memory}.",
        )
        expect(self.state_dim >= 1, f"StateSpace(state_dim=) must be at least 1; got {self.state_dim}.")
        expect(self.groups >= 1, f"StateSpace(groups=) must be at least 1; got {self.groups}.")
        expect(self.conv >= 2, f"StateSpace(conv=) spans at least 2 tokens; got {self.conv}.")

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> StateSpaceLayer:
        return StateSpaceLayer(self, width, heads)


class StateSpaceLayer(Layer):
    """The layer that `StateSpace` describes. Its state: the memory's, and the convolution's last inputs."""

    def __init__(self, spec: StateSpace, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        inner = round(width * spec.expand)
        expect(
            inner >= heads and inner % heads == 0,
            f"width * expand = {inner} channels cannot be shared between {heads} heads; choose another width or heads.",
        )
        expect(
            heads % spec.groups == 0, f"heads must be a multiple of groups; got {heads} heads and {spec.groups} groups."
        )
        self.value_dim = inner // heads
        shared = spec.groups * spec.state_dim
        self.parts = [inner, inner + 2 * shared, heads]  # z; x, B and C; dt
        self.mixed_parts = [inner, shared, shared]
        self.project = nn.Linear(width, sum(self.parts), bias=False)
        self.conv = ShortConvolution(self.parts[1], spec.conv)
        self.conv_bias = nn.Parameter(torch.zeros(self.parts[1]))
        self.log_speed = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        step = torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`
        self.controls = nn.ModuleDict(
            {
                c.name: default_rule(c, 1).build(width, heads, c.size(spec.state_dim, self.value_dim))
                for c in spec.memory.controls
                if c.name not in ("rate", "decay")
            }
        )
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = RMSNorm(inner)
        self.out = nn.Linear(inner, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.spec.state_dim, self.value_dim

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        state_dtype = self.memory.state_dtype(dtype)
        memory = self.memory.init(1, self.heads, self.spec.state_dim, self.value_dim, None, state_dtype, weight.device)
        fresh = {"conv": torch.zeros(1, self.spec.conv - 1, self.parts[1], dtype=dtype, device=weight.device)}
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        z, mixed, step = self.project(x).split(self.parts, -1)
        mixed, past = self.conv(mixed, state["conv"], lengths)
        mixed = F.silu(mixed + self.conv_bias.to(mixed.dtype))
        v, k, q = mixed.split(self.mixed_parts, -1)
        v = v.unflatten(-1, (self.heads, -1))
        q, k = (self._to_heads(y) for y in (q, k))
        wide = step if step.dtype == torch.float64 else step.float()
        rate = F.softplus(wide + self.step_bias)
        controls = {"rate": rate, "decay": torch.exp(-torch.exp(self.log_speed) * rate)}
        controls |= {name: rule(x) for name, rule in self.controls.items()}
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, q, k, v, controls, state.child("memory"), lengths)
        o = (o.to(v.dtype) + self.skip.to(v.dtype)[:, None] * v).flatten(-2)
        return self.out(self.norm(o * F.silu(z))), state.successor(memory=memory, conv=past)

    def _to_heads(self, x: Tensor) -> Tensor:
        """(B, T, groups * state_dim) -> (B, T, H, state_dim), heads of a group beside each other."""
        return x.unflatten(-1, (self.spec.groups, -1)).repeat_interleave(self.heads // self.spec.groups, 2)
