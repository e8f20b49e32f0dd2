"""A start from which recall is easily learned: recurrent layers begin as linear attention with matching keys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.convolution import ShortConvolution
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.layers.state_space import StateSpace, StateSpaceLayer
from mnemos.memory import KVMemory

LOG_SPEED = -8.0
DECAY = math.exp(-math.exp(LOG_SPEED))
"""About 0.9997: 0.71 of what was written is left after 1,000 tokens."""


@dataclass(frozen=True)
class Mimetic(LayerDeclaration):
    """`layer`, with other first weights (arXiv 2410.11135):

        W_q = W_k                  a query matches the keys of equal tokens
        decay = exp(-e^-8)         for every token: its dependence on the token starts at nothing
        rate = 1                   in a state space layer, softplus(b) with b = log(e - 1) and W = 0
        convolution = identity     its last tap 1, the others 0

    so that the memory starts as a sum over the whole past, the linear attention that weighs each token by how much it
    resembles the present one. All of it goes on being learned. Values, output, gates and other rates start as always.

    layer: a `LayerSpec` whose memory learns one pair a token, or a `StateSpace`. Raises InvalidValue for any other,
    and for a decay that is fixed.
    """

    layer: LayerDeclaration

    def __post_init__(self) -> None:
        expect_kind(self.layer, LayerDeclaration, "layer", "zoo.gla()")
        fit = isinstance(self.layer, StateSpace) or (
            isinstance(self.layer, LayerSpec)
            and not isinstance(self.layer.memory, KVMemory)
            and self.layer.memory.pairs == 1
            and not self.layer.shared_keys
        )
        expect(
            fit,
            "Mimetic(layer=) takes a LayerSpec around a memory that learns one pair a token, such as zoo.gla(), or a "
            f"StateSpace, such as zoo.mamba2(); got {self.layer}.",
        )

    @property
    def kept(self) -> str:
        return self.layer.kept

    def build(self, width: int, heads: int) -> Layer:
        layer = self.layer.build(width, heads)
        with torch.no_grad():
            if isinstance(layer, StateSpaceLayer):
                _start_state_space(layer)
            elif isinstance(layer, MemoryLayer):
                _start_memory_layer(layer)
        return layer

    def at(self, index: int, depth: int) -> Mimetic:
        return self.replace(layer=self.layer.at(index, depth))


def _start_memory_layer(layer: MemoryLayer) -> None:
    queries, keys, _ = layer.project.weight.split(layer.sizes)
    keys.copy_(queries)
    if layer.conv is not None:
        _start_convolution(layer.conv)
    if "decay" in layer.controls:
        rule = layer.controls["decay"]
        start = getattr(rule, "start_at_", None)
        expect(start is not None, f"Mimetic needs a decay that can start at any value; {type(rule).__name__} cannot.")
        assert start is not None
        start(DECAY)


def _start_state_space(layer: StateSpaceLayer) -> None:
    _, mixed, steps = layer.project.weight.split(layer.parts)
    _, keys, queries = mixed.split(layer.mixed_parts)
    keys.copy_(queries)
    steps.zero_()
    layer.step_bias.fill_(math.log(math.e - 1))
    layer.log_speed.fill_(LOG_SPEED)
    layer.conv_bias.zero_()
    _start_convolution(layer.conv)


def _start_convolution(convolution: ShortConvolution) -> None:
    nn.init.zeros_(convolution.weight)
    convolution.weight[-1] = 1
