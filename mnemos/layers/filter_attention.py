"""The layer of adaptive filter attention: an observed state that decays and turns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.controls import default_rule
from mnemos.lowering import run_rows
from mnemos.memory import AdaptiveFilter, Append, Everything, KVMemory, Retain
from mnemos.memory.rotary import turn_pairs
from mnemos.state import State


@dataclass(frozen=True)
class FilterAttention(LayerDeclaration):
    """Adaptive filter attention (arXiv 2509.04154). In each head every token observes a state that decays, turns by
    the angles of rotary positions and is driven by noise. With R_t the rotation by position t,

        o_t = R_t filter(R_-t q_t; R_-j k_j, R_-j v_j),   y_t = W_o (o_t - v_t)

    where `filter` is the read AdaptiveFilter: observations carried to the present, weighed by how certain they are and
    how well they fit the query. What goes on is the innovation, what the past says beyond the token's own value: zero
    for a first token. The numbers of the filter are learned, one a head.

    rotary: base of the rotary angles. coupling: None for the same angles in all heads and a learned damping; a number
    b couples them: the frequencies are shared out, the fastest to the first head, and a head's damping is b times its
    fastest one, so that heads that turn slowly remember long. retain: which of the entries stay.
    """

    rotary: float = 10000.0
    coupling: float | None = None
    retain: Retain = field(default_factory=Everything)

    def __post_init__(self) -> None:
        expect(self.rotary > 1, f"FilterAttention(rotary=) is a base above 1; got {self.rotary}.")
        expect(
            self.coupling is None or self.coupling >= 0,
            f"FilterAttention(coupling=) is a factor of at least 0, or None; got {self.coupling}.",
        )
        expect_kind(self.retain, Retain, "retain", "Everything() or Window(256)")

    @property
    def memory(self) -> KVMemory:
        """What keeps and reads the observations."""
        return KVMemory(write=Append(), retain=self.retain, read=AdaptiveFilter())

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> FilterAttentionLayer:
        return FilterAttentionLayer(self, width, heads)


class FilterAttentionLayer(Layer):
    """The layer that `FilterAttention` describes. Its state: `memory`, and the `count` (B,) of tokens seen."""

    def __init__(self, spec: FilterAttention, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        expect(width // heads % 2 == 0, f"rotary positions turn pairs of channels; got {width // heads} a head.")
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        spec.to_json()  # compiled code can only read it
        self.memory.to_json()
        self.project = nn.Linear(width, 3 * width, bias=False)
        learned = [c for c in self.memory.controls if c.name != "damping" or spec.coupling is None]
        rules = {c.name: default_rule(c, 1) for c in learned}
        self.controls = nn.ModuleDict({name: rule.build(width, heads, None) for name, rule in rules.items()})
        # Scores begin as large as scaled dot products; learned dampings remember from ten to a thousand tokens.
        starts = {"sharpness": torch.full((heads,), math.sqrt(width // heads), dtype=torch.float64)}
        if spec.coupling is None:
            starts["damping"] = torch.logspace(-1, -3, heads, dtype=torch.float64)
        with torch.no_grad():
            for name, start in starts.items():
                self.controls[name].get_parameter("raw").copy_(start + torch.log(-torch.expm1(-start)))
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def frequencies(self, device: torch.device) -> Tensor:
        """Angles a token by which the pairs of channels turn, (H, K/2) in float64."""
        half = self.width // self.heads // 2
        number = half if self.spec.coupling is None else self.heads * half
        falling = self.spec.rotary ** (-torch.arange(number, dtype=torch.float64, device=device) / number)
        return falling.view(-1, half).expand(self.heads, half)

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        memory = self.memory.init(1, *self.memory_sizes, None, self.memory.state_dtype(dtype), weight.device)
        fresh = {"count": torch.zeros(1, dtype=torch.int64, device=weight.device)}
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        length, count = x.shape[1], state["count"]
        position = count[:, None] + torch.arange(length, device=x.device)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in self.project(x).chunk(3, -1))
        frequencies = self.frequencies(x.device)
        angles = position.double()[..., None, None] * frequencies
        q, k, back = (turn_pairs(y, -angles) for y in (q, k, v))
        controls = {name: rule(x) for name, rule in self.controls.items()}
        if self.spec.coupling is not None:
            damping = self.spec.coupling * frequencies[:, 0]
            controls["damping"] = damping.to(controls["process"].dtype).expand_as(controls["process"])
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, q, k, back, controls, state.child("memory"), lengths)
        innovation = turn_pairs(o.to(v.dtype), angles) - v
        count = count + (length if lengths is None else lengths)
        return self.out(innovation.flatten(-2)), state.successor(memory=memory, count=count)

    def flops(self, length: int) -> float:
        return self.plan(length).flops + 2.0 * (self.project.weight.numel() + self.out.weight.numel()) * length
