"""Recurrences with coupled gates: what a decay leaves is what is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.layers.coupled_decays import CoupledDecay
from mnemos.layers.memory_layer import linear
from mnemos.layers.norm import RMSNorm
from mnemos.lowering import run_rows
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.state import State

MEMORY = Memory(Matrix(), Dot(), Decay(per="channel"), GD(rate=1.0))


@dataclass(frozen=True)
class Coupled(LayerDeclaration):
    """A layer around the recurrence whose key is what the decay leaves,

        M_t = M_t-1 Diag(a_t) + v_t (1 - a_t)^T,   o_t = M_t silu(W_q x_t),   y = W_o (norm(o) [* gate(x)])

    so that every key channel holds a weighted mean of the values. v = W_v x; the norm is over all heads together.

    decay: how a_t in [0, 1]^key_dim is made. gate_rank: multiply the normed output by silu(W_2 W_1 x), W_1 of so many
    rows; None for no gate. key_expand: all heads' keys together have width times this many channels.
    axes: relative positions (LightNet's MD-LRPE). () counts tokens; (n_1, n_2 ...) is a grid whose cells come row by
    row, begun again when it is full, its axes sharing the key channels evenly. Channel i, with coordinate n and
    frequency f_i, then asks and is written as (x_i cos(f_i n), x_i sin(f_i n)), so that answers depend on differences
    of coordinates only. None for no positions.
    """

    decay: CoupledDecay
    gate_rank: int | None = None
    key_expand: float = 1.0
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        expect_kind(self.decay, CoupledDecay, "decay", "LowerBounded() or PrefixSoftmax()")
        expect(
            self.gate_rank is None or self.gate_rank >= 1,
            f"Coupled(gate_rank=) must be at least 1; got {self.gate_rank}.",
        )
        if self.axes is not None:
            object.__setattr__(self, "axes", tuple(self.axes))
            expect(
                all(isinstance(n, int) and n >= 1 for n in self.axes),
                f"Coupled(axes=) holds the lengths of a grid's axes, whole numbers of at least 1; got {self.axes}.",
            )

    @property
    def kept(self) -> str:
        return MEMORY.kept

    def build(self, width: int, heads: int) -> CoupledLayer:
        return CoupledLayer(self, width, heads)

    def at(self, index: int, depth: int) -> Coupled:
        return self.replace(decay=self.decay.at(index, depth))


class CoupledLayer(Layer):
    """The layer that `Coupled` describes. Its state: the memory's, and the decay's past where it has one."""

    def __init__(self, spec: Coupled, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, MEMORY
        keys = round(width * spec.key_expand)
        expect(
            keys >= heads and keys % heads == 0,
            f"width * key_expand = {keys} channels cannot be shared between {heads} heads; choose another width.",
        )
        self.sizes = [keys, width]
        self.key_dim, self.value_dim = keys // heads, width // heads
        shared = max(len(spec.axes or ()), 1)
        expect(
            self.key_dim % shared == 0,
            f"{shared} axes cannot share the {self.key_dim} key channels of a head evenly; choose another width.",
        )
        self.stored_key_dim = self.key_dim if spec.axes is None else 2 * self.key_dim
        self.project = nn.Linear(width, sum(self.sizes), bias=False)
        self.decay = spec.decay.build(width, heads, self.key_dim)
        self.norm = RMSNorm(width)
        self.gate = None if spec.gate_rank is None else linear(width, width, spec.gate_rank)
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.stored_key_dim, self.value_dim

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = MEMORY.state_dtype(weight.dtype)
        memory = MEMORY.init(1, self.heads, self.stored_key_dim, self.value_dim, None, dtype, weight.device)
        past = self.decay.fresh()
        fresh = {} if past is None else {"decay": past}
        if self.spec.axes is not None:
            fresh["count"] = torch.zeros(1, dtype=torch.int64, device=weight.device)
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        entries: dict[str, Tensor | State] = {}
        q, v = self.project(x).split(self.sizes, -1)
        q, v = (y.unflatten(-1, (self.heads, -1)) for y in (F.silu(q), v))
        decay, key, past = self.decay(x, state["decay"] if "decay" in state.fresh else None, lengths)
        if self.spec.axes is not None:
            count = state["count"]
            angles = self._angles(count[:, None] + torch.arange(x.shape[1], device=x.device))
            q, key, decay = _placed(q, angles), _placed(key, angles), torch.cat([decay, decay], -1)
            entries["count"] = count + (x.shape[1] if lengths is None else lengths)
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, entries["memory"] = run_rows(MEMORY, q, key, v, {"decay": decay}, state.child("memory"), lengths)
        if past is not None:
            entries["decay"] = past
        o = self.norm(o.flatten(-2).to(v.dtype))
        if self.gate is not None:
            o = o * F.silu(self.gate(x))
        return self.out(o), state.successor(**entries)

    def _angles(self, position: Tensor) -> Tensor:
        """(B, T) -> coordinate times frequency for every key channel, (B, T, K). Frequencies fall from 1 towards 1e-4
        within each axis; in float64, for streams that are long."""
        axes = self.spec.axes or ()
        channels = self.key_dim // max(len(axes), 1)
        frequency = 10000.0 ** (-torch.arange(channels, device=position.device, dtype=torch.float64) / channels)
        if not axes:
            return position.double()[..., None] * frequency
        strides = [math.prod(axes[i + 1 :]) for i in range(len(axes))]
        coordinates = [position // stride % n for stride, n in zip(strides, axes, strict=True)]
        return torch.cat([n.double()[..., None] * frequency for n in coordinates], -1)


def _placed(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, T, H, K) at angles (B, T, K): (B, T, H, 2K)."""
    cos, sin = angles.cos().to(x.dtype)[:, :, None], angles.sin().to(x.dtype)[:, :, None]
    return torch.cat([x * cos, x * sin], -1)
