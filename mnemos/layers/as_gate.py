"""Two layers side by side, the one gating the other (Titans' memory as a gate)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_prompt
from mnemos.layers.norm import RMSNorm
from mnemos.state import State


@dataclass(frozen=True)
class AsGate(LayerDeclaration):
    """y = norm(layer(x)) * sigmoid(norm(gate(x))): Titans' memory as a gate (arXiv 2501.00663, eqs. 26-28)."""

    layer: LayerDeclaration
    gate: LayerDeclaration

    def __post_init__(self) -> None:
        expect_kind(self.layer, LayerDeclaration, "layer", "zoo.sliding_window()")
        expect_kind(self.gate, LayerDeclaration, "gate", "zoo.titans_lmm()")
        check_prompt(self.layer, "AsGate(layer=)")
        check_prompt(self.gate, "AsGate(gate=)")

    @property
    def kept(self) -> str:
        return f"{self.layer.kept}, gated by {self.gate.kept}"

    def build(self, width: int, heads: int) -> GateLayer:
        return GateLayer(self, width, heads)

    def at(self, index: int, depth: int) -> AsGate:
        return self.replace(layer=self.layer.at(index, depth), gate=self.gate.at(index, depth))


class GateLayer(Layer):
    """The layer that `AsGate` describes."""

    def __init__(self, spec: AsGate, width: int, heads: int):
        super().__init__()
        self.spec, self.width, self.heads = spec, width, heads
        self.layer, self.gate = spec.layer.build(width, heads), spec.gate.build(width, heads)
        self.layer_norm, self.gate_norm = RMSNorm(width), RMSNorm(width)

    def fresh_state(self) -> State:
        return State(self.owner, {"layer": self.layer.fresh_state(), "gate": self.gate.fresh_state()})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        y, layer = self.layer.rows(x, state.child("layer"), lengths)
        m, gate = self.gate.rows(x, state.child("gate"), lengths)
        return self.layer_norm(y) * torch.sigmoid(self.gate_norm(m)), state.successor(layer=layer, gate=gate)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        parts = [
            self.layer.explain(length, batch, training),
            "gated by",
            self.gate.explain(length, batch, training),
        ]
        return "\n".join(parts)

    def flops(self, length: int) -> float:
        return self.layer.flops(length) + self.gate.flops(length)
