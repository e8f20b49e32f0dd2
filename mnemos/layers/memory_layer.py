"""A memory with learned inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.controls import ControlRule, default_rule
from mnemos.layers.convolution import ShortConvolution
from mnemos.layers.features import FeatureMap
from mnemos.layers.norm import RMSNorm
from mnemos.lowering import run_rows
from mnemos.memory import AnyMemory, Controls, KVMemory, Window
from mnemos.memory.rotary import turn
from mnemos.state import State

Rules = tuple[tuple[str, ControlRule], ...]

GATES = {"swish": F.silu, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class LayerSpec(LayerDeclaration):
    """A layer around a memory:

        q, k, v = W x           then, where asked: short convolution and SiLU; keys' feature map; rotation
        o = memory(q, k, v, controls(x))
        y = W_o (norm(o) * gate(x))

    memory: the declaration. keys: feature map of q and k, such as Unit(); None leaves them.
    conv: size of the causal convolution on q, k, v, followed by SiLU; None for neither. conv_values: False spares v
    both.
    gate: "swish" multiplies the output by silu(W_g x), "sigmoid" by sigmoid(W_g x); with gate_rank, W_g is a product
    of two matrices over so many channels. norm: "rms" normalises each head's output; "sum" divides it
    by the sum of the weights with which the values were added (linear attention's normaliser).
    controls: how the memory's controls are made, by name; those left out get a default. hold: make them of the first of
    every `hold` tokens, and keep them for the others.
    key_expand, value_expand: all heads' keys and values together have width times this many channels.
    kv_heads: heads of keys and values where they are fewer (memories of entries only; a control of writing that a layer
    makes of the query is then the mean over the queries that share a head).
    rotation: turn q and k by their positions, lowest frequency 1e-4 and highest 1 (RetNet's); for softmax reads the
    memory's own `Softmax(rotary=)` is meant. persistent: learned tokens that the memory has always read first.
    shared_keys: queries serve as keys too.
    """

    memory: AnyMemory
    keys: FeatureMap | None = None
    conv: int | None = None
    conv_values: bool = True
    gate: Literal["swish", "sigmoid"] | None = None
    norm: Literal["rms", "sum"] | None = None
    controls: Rules = ()
    hold: int = 1
    key_expand: float = 1.0
    value_expand: float = 1.0
    kv_heads: int | None = None
    rotation: bool = False
    persistent: int = 0
    gate_rank: int | None = None
    shared_keys: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.memory, AnyMemory):
            raise InvalidType(
                "LayerSpec(memory=) takes a memory, for example Memory(); the spec of a whole model goes to "
                f"LanguageModel. Got {self.memory!r}."
            )
        if isinstance(self.controls, Mapping):
            object.__setattr__(self, "controls", tuple(self.controls.items()))
        for name, rule in self.controls:
            expect_kind(rule, ControlRule, f"LayerSpec(controls={name})", "Sigmoid()")
        declared = {control.name: control for control in self.memory.controls}
        unknown = [name for name, _ in self.controls if name not in declared]
        expect(
            not unknown,
            f"LayerSpec(controls=) names {unknown}, which the memory does not take; it takes {sorted(declared)}.",
        )
        for name, rule in self.controls:
            (low, high), control = rule.bounds, declared[name]
            expect(
                control.low <= low and high <= control.high,
                f"LayerSpec(controls={name}): {rule} gives values in [{low:g}, {high:g}], but {name} must stay in "
                f"[{control.low:g}, {control.high:g}] ({control.meaning}).",
            )
        if self.keys is not None:
            expect_kind(self.keys, FeatureMap, "keys", "Unit()")
        expect(self.norm in ("rms", "sum", None), f'LayerSpec(norm=) is "rms", "sum" or None; got {self.norm!r}.')
        expect(self.gate in (*GATES, None), f'LayerSpec(gate=) is "swish", "sigmoid" or None; got {self.gate!r}.')
        expect(
            self.gate_rank is None or (self.gate is not None and self.gate_rank >= 1),
            f"LayerSpec(gate_rank=) is at least 1 and goes with a gate; got {self.gate_rank} with gate={self.gate!r}.",
        )
        expect(self.conv is None or self.conv >= 2, f"LayerSpec(conv=) spans at least 2 tokens; got {self.conv}.")
        expect(self.hold >= 1, f"LayerSpec(hold=) is a number of tokens of at least 1; got {self.hold}.")
        expect(self.persistent >= 0, f"LayerSpec(persistent=) is a number of tokens; got {self.persistent}.")
        expect(
            self.kv_heads is None or self.memory.grouped,
            f"LayerSpec(kv_heads=) is for memories that several heads can share; {self.memory} has a state a head.",
        )
        expect(
            not self.shared_keys or (self.kv_heads is None and self.memory.pairs == 1),
            "LayerSpec(shared_keys=) makes a key of each query: it goes with no kv_heads=, and one pair a token.",
        )
        expect(self.kv_heads is None or self.kv_heads >= 1, f"LayerSpec(kv_heads=) is at least 1; got {self.kv_heads}.")
        expect(
            "waited" not in declared,
            "LayerSpec(memory=) answers each query with its own token; a memory that is read by Delayed goes into "
            "WaitToAttend(memory), which keeps the queries until then.",
        )
        if self.persistent and isinstance(self.memory, KVMemory) and isinstance(self.memory.retain, Window):
            expect(
                self.memory.retain.sinks >= self.persistent,
                f"{self.persistent} persistent tokens would slide out of the window: keep them as sinks, "
                f"Window({self.memory.retain.size}, sinks={self.persistent}).",
            )

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> MemoryLayer:
        return MemoryLayer(self, width=width, heads=heads)


class MemoryLayer(Layer):
    """The layer that a `LayerSpec` (or a bare memory) describes.

    width: channels in and out; heads: independent memories side by side, dividing the width. See `Layer.forward`.
    """

    def __init__(self, spec: LayerSpec | AnyMemory, *, width: int, heads: int):
        super().__init__()
        if not isinstance(spec, LayerSpec):
            spec = LayerSpec(spec)
        check_width(width, heads)
        self.spec, self.width, self.heads = spec, width, heads
        self.kv_heads = spec.kv_heads or heads
        expect(
            heads % self.kv_heads == 0,
            f"heads must be a multiple of kv_heads; got {heads} and {self.kv_heads}.",
        )
        self.key_dim = _head_width("key_expand", width, spec.key_expand, heads)
        self.value_dim = _head_width("value_expand", width, spec.value_expand, heads)
        expect(not spec.rotation or self.key_dim % 2 == 0, f"rotation needs an even key_dim; got {self.key_dim}.")
        self.memory = spec.memory
        pairs = self.kv_heads * spec.memory.pairs
        keys = 0 if spec.shared_keys else pairs * self.key_dim
        self.sizes = [heads * self.key_dim, keys, pairs * self.value_dim]
        self.feature_dim = self.key_dim if spec.keys is None else spec.keys.width(self.key_dim)
        out = heads * self.value_dim

        self.project = nn.Linear(width, sum(self.sizes), bias=False)
        self.mixed_sizes = [sum(self.sizes), 0] if spec.conv_values else [sum(self.sizes[:2]), self.sizes[2]]
        self.conv = ShortConvolution(self.mixed_sizes[0], spec.conv) if spec.conv else None
        given, chunk = dict(spec.controls), getattr(getattr(spec.memory, "learner", None), "chunk", 1)
        self.controls, self.asking = nn.ModuleDict(), nn.ModuleDict()  # made of the layer's input; of the query
        self.telling = nn.ModuleDict()  # made of the values
        for c in self.memory.controls:
            if not c.tied or c.name in given:
                rule, size = given.get(c.name, default_rule(c, chunk)), c.size(self.feature_dim, self._stored_value_dim)
                number = self.kv_heads if c in self.memory.write_controls else heads
                if rule.of == "input":
                    self.controls[c.name] = rule.build(width, number, size)
                elif rule.of == "value":
                    self.telling[c.name] = rule.build(self.kv_heads * self._stored_value_dim, number, size)
                else:
                    self.asking[c.name] = rule.build(heads * self.feature_dim, heads, size)
        weights = self.memory.initial_weights(heads, self.feature_dim, self._stored_value_dim)
        self.initial = nn.ParameterDict({name: nn.Parameter(weight) for name, weight in weights.items()})
        self.norm = RMSNorm(self.value_dim) if spec.norm == "rms" else None
        self.gate = linear(width, out, spec.gate_rank) if spec.gate else None
        self.out = nn.Linear(out, width, bias=False)
        self.persistent = nn.Parameter(torch.randn(spec.persistent, width)) if spec.persistent else None

    @property
    def _stored_value_dim(self) -> int:
        """With norm="sum" every value carries a 1, which adds up to the sum of the weights."""
        return self.value_dim + (self.spec.norm == "sum")

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.feature_dim, self._stored_value_dim

    def fresh_state(self) -> State:
        return self.fresh_recall(dict(self.initial.items()))

    def fresh_recall(self, initial: Mapping[str, Tensor]) -> State:
        """`fresh_state` for other initial weights than the layer's own."""
        weight = self.out.weight
        dtype = computed_in(weight)
        memory = self.memory.init(
            1,
            self.kv_heads,
            self.feature_dim,
            self._stored_value_dim,
            initial,
            self.memory.state_dtype(dtype),
            weight.device,
        )
        entries: dict[str, Tensor | State] = {"memory": memory}
        fresh: dict[str, Tensor] = {}
        if self.conv is not None:
            fresh["conv"] = torch.zeros(1, self.conv.size - 1, self.mixed_sizes[0], dtype=dtype, device=weight.device)
        if self.spec.hold > 1:
            for c in self.memory.controls:
                if c.name in self.controls:
                    size = c.size(self.feature_dim, self._stored_value_dim)
                    shape = (1, self.heads) if size is None else (1, self.heads, size)
                    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
                    fresh[f"held.{c.name}"] = torch.zeros(shape, dtype=wide, device=weight.device)
        if self.spec.rotation or self.spec.hold > 1:
            fresh["count"] = torch.zeros(1, dtype=torch.int64, device=weight.device)
        state = State(self.owner, entries | fresh, fresh)
        if self.persistent is not None:
            _, state = self.rows(self.persistent[None], state, None)
        return state

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        controls = {name: rule(x) for name, rule in self.controls.items()}
        o, state = self.recall(self.project(x), controls, state, lengths)
        return self.finish(o, x), state

    def recall(self, mixed: Tensor, controls: Controls, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """What the memory answers, (B, T, H, V), to the projected queries, keys and values, side by side in `mixed`
        (B, T, sum(sizes))."""
        entries: dict[str, Tensor | State] = {}
        if self.conv is not None:
            convolved, spared = mixed.split(self.mixed_sizes, -1) if self.mixed_sizes[1] else (mixed, None)
            convolved, entries["conv"] = self.conv(convolved, state["conv"], lengths)
            mixed = F.silu(convolved) if spared is None else torch.cat([F.silu(convolved), spared], -1)
        q, k, v = mixed.split(self.sizes, -1)
        k = q if self.spec.shared_keys else k
        q, k, v = (y.unflatten(-1, (n, -1)) for y, n in ((q, self.heads), (k, self.kv_heads), (v, self.kv_heads)))
        if self.spec.keys is not None:
            q, k = self.spec.keys(q), self._each_pair(self.spec.keys, k)
        if self.spec.rotation or self.spec.hold > 1:
            count = state["count"]
            positions = count[:, None] + torch.arange(mixed.shape[1], device=mixed.device)
            entries["count"] = count + (mixed.shape[1] if lengths is None else lengths)
            if self.spec.rotation:
                q, k = _rotate(q, positions), self._each_pair(lambda y: _rotate(y, positions), k)
            if self.spec.hold > 1:
                controls = {n: self._hold(x, state[f"held.{n}"], positions) for n, x in controls.items()}
                last = None if lengths is None else (lengths - 1).clamp(min=0)
                for name, x in controls.items():
                    now = x[:, -1] if last is None else x[torch.arange(len(x), device=x.device), last]
                    if lengths is not None:
                        moved = (lengths > 0).view(-1, *[1] * (now.ndim - 1))
                        now = torch.where(moved, now, state[f"held.{name}"])
                    entries[f"held.{name}"] = now
        if self.spec.norm == "sum":
            v = self._each_pair(lambda y: torch.cat([y, torch.ones_like(y[..., :1])], -1), v)

        asked = {name: rule(q) for name, rule in self.asking.items()}
        asked |= {name: rule(v) for name, rule in self.telling.items()}
        tied = {c.name: q for c in self.memory.read_controls if c.tied}
        if self.kv_heads < self.heads:
            q_of_keys = q.unflatten(2, (self.kv_heads, -1)).mean(3)
            tied |= {c.name: q_of_keys for c in self.memory.write_controls if c.tied}
        else:
            tied |= {c.name: q for c in self.memory.write_controls if c.tied}
        controls = tied | dict(controls) | asked
        with torch.autocast(mixed.device.type, enabled=False):  # the memory keeps its own precision
            o, entries["memory"] = run_rows(self.memory, q, k, v, controls, state.child("memory"), lengths)
        if self.spec.norm == "sum":
            o = o[..., :-1] / (o[..., -1:] + 1e-6)
        return o.to(mixed.dtype), state.successor(**entries)

    def finish(self, o: Tensor, x: Tensor) -> Tensor:
        """The layer's output from what its memory answered, (B, T, H, V), to x."""
        if self.norm is not None:
            o = self.norm(o)
        o = o.flatten(-2)
        if self.gate is not None and self.spec.gate is not None:
            o = o * GATES[self.spec.gate](self.gate(x))
        return self.out(o)

    def _hold(self, x: Tensor, before: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, ...) as it was where the `hold` tokens around each position (B, T) began, or `before` (B, ...)."""
        began = torch.arange(x.shape[1], device=x.device) - positions % self.spec.hold
        index = began.clamp(min=0).view(*began.shape, *[1] * (x.ndim - 2)).expand(x.shape)
        earlier = (began < 0).view(*began.shape, *[1] * (x.ndim - 2))
        return torch.where(earlier, before[:, None].to(x.dtype), x.gather(1, index))

    def _each_pair(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`function` applied to each of the vectors that a head of k or v holds."""
        if self.memory.pairs == 1:
            return function(x)
        return torch.cat([function(part) for part in x.chunk(self.memory.pairs, -1)], -1)


def linear(width: int, out: int, rank: int | None) -> nn.Module:
    """A matrix, or with `rank` a product of two over so many channels."""
    if rank is None:
        return nn.Linear(width, out, bias=False)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, out, bias=False))


def _head_width(name: str, width: int, expand: float, heads: int) -> int:
    total = round(width * expand)
    expect(
        total >= heads and total % heads == 0,
        f"width * {name} = {total} channels cannot be shared between {heads} heads; choose another width or heads.",
    )
    return total // heads


def _rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Angles 10000^-u for u from 0 to 1, both ends included (RetNet)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** -torch.linspace(0, 1, half, device=x.device, dtype=torch.float64)
    return turn(x, positions.double()[..., None] * frequencies)
