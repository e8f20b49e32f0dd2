"""Fourier analysis: some features of a projection are its cosines and sines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_prompt
from mnemos.state import State


class FourierFeatures(nn.Module):
    """[cos(W_p x + b_p), sin(W_p x + b_p), f(W_g x + b_g)]: the FAN layer (arXiv 2410.02675).

    width: channels in. out: channels out, of which int(share out) are cosines and as many sines of the same angles.
    share: from 0 to 0.5. activation: f, None for none. As fast as a linear layer of out - int(share out) channels.
    """

    def __init__(self, width: int, out: int, share: float, activation: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        expect(0 <= share <= 0.5, f"FourierFeatures(share=) lies from 0 to 0.5; got {share}.")
        self.periodic, self.activation = int(share * out), activation
        self.linear = nn.Linear(width, out - self.periodic)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., out)."""
        y = self.linear(x)
        angles, rest = y[..., : self.periodic], y[..., self.periodic :]
        return torch.cat([angles.cos(), angles.sin(), rest if self.activation is None else self.activation(rest)], -1)


@dataclass(frozen=True)
class FourierInput(LayerDeclaration):
    """y = layer([cos(W_p x + b_p), sin(W_p x + b_p), W_g x + b_g]): a layer whose queries, keys and values see periods
    of its input (FANformer, arXiv 2502.21309).

    layer: any. share: of its input's channels that are cosines, and as many sines, from 0 to 0.5; 0 puts a linear map
    in front of the layer and nothing else.
    """

    layer: LayerDeclaration
    share: float = 0.125

    def __post_init__(self) -> None:
        expect_kind(self.layer, LayerDeclaration, "layer", "zoo.multi_query_attention()")
        check_prompt(self.layer, "FourierInput(layer=)")
        expect(0 <= self.share <= 0.5, f"FourierInput(share=) lies from 0 to 0.5; got {self.share}.")

    @property
    def kept(self) -> str:
        return self.layer.kept

    def build(self, width: int, heads: int) -> FourierInputLayer:
        return FourierInputLayer(self, width, heads)

    def at(self, index: int, depth: int) -> FourierInput:
        return self.replace(layer=self.layer.at(index, depth))


class FourierInputLayer(Layer):
    """The layer that `FourierInput` describes. Its state: that of the inner `layer`."""

    def __init__(self, spec: FourierInput, width: int, heads: int):
        super().__init__()
        self.spec, self.width, self.heads = spec, width, heads
        spec.to_json()  # compiled code can only read it
        self.layer = spec.layer.build(width, heads)
        self.features = FourierFeatures(width, width, spec.share)

    def fresh_state(self) -> State:
        return State(self.owner, {"layer": self.layer.fresh_state()})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        y, layer = self.layer.rows(self.features(x), state.child("layer"), lengths)
        return y, state.successor(layer=layer)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        return self.layer.explain(length, batch, training)

    def flops(self, length: int) -> float:
        return self.layer.flops(length) + 2.0 * self.features.linear.weight.numel() * length
