"""A multi-layer perceptron whose weights are the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.memory.declaration import expect
from mnemos.memory.structure.base import Linear, Structure, Trace

EPSILON = 1e-4


@dataclass(frozen=True)
class MLP(Structure):
    """M(x) = x + unit(W_n act(... act(W_1 x))), the deep memory of Titans and Miras (arXiv 2501.00663, 2504.13173).

    depth: number of weight matrices, 1 to 8. expansion: hidden width over key_dim. activation: between the
    matrices. residual: add x; needs key_dim == value_dim. norm: unit(z) centres z and scales it to length 1 (layer
    normalisation without gain, over sqrt(value_dim)); False leaves z as it is. The initial weights are always
    learned: a network of zeros has no gradient to learn from.

    The normalisation is what keeps a deep memory stable: the larger the weights, the smaller the gradient. The papers
    that state one use plain layer normalisation, whose output has length sqrt(value_dim), beside keys of length 1;
    that, and no normalisation at all, diverged here within 100 steps of training (docs/log.md).
    """

    depth: int = 2
    expansion: int = 4
    activation: Literal["gelu", "silu", "relu"] = "gelu"
    residual: bool = True
    norm: bool = True
    learned = True

    def __post_init__(self) -> None:
        expect(1 <= self.depth <= 8, f"MLP(depth=): 1 to 8 weight matrices; got {self.depth}.")
        expect(self.expansion >= 1, f"MLP(expansion=): a whole number of at least 1; got {self.expansion}.")
        known = ("gelu", "silu", "relu")
        expect(self.activation in known, f"MLP(activation=) is one of {known}; got {self.activation!r}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The weights in the order of the forward pass."""
        return tuple(f"layer{i + 1}" for i in range(self.depth))

    def shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, int]]:
        expect(
            not self.residual or key_dim == value_dim,
            f"MLP(residual=True) adds the key to the value, so their dimensions must agree; got key_dim={key_dim} "
            f"and value_dim={value_dim}. Use MLP(residual=False) or equal dimensions.",
        )
        widths = [key_dim, *[self.expansion * key_dim] * (self.depth - 1), value_dim]
        return {name: (widths[i + 1], widths[i]) for i, name in enumerate(self.names)}

    def initial(self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {
            name: torch.randn(heads, out, inner, generator=generator) / math.sqrt(inner)
            for name, (out, inner) in self.shapes(key_dim, value_dim).items()
        }

    def forward(self, linear: Linear, x: Tensor) -> Tensor:
        h = x
        for name in self.names[:-1]:
            h = _activate(self.activation, linear(name, h))
        h = linear(self.names[-1], h)
        if self.norm:
            h = F.layer_norm(h, h.shape[-1:], eps=EPSILON) / math.sqrt(h.shape[-1])
        return x + h if self.residual else h

    def trace(self, weights: Mapping[str, Tensor], x: Tensor) -> Trace:
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def linear(name: str, h: Tensor) -> Tensor:
            inputs[name] = h
            outputs[name] = h @ weights[name].mT
            return outputs[name]

        prediction = self.forward(linear, x)

        def pullback(error: Tensor) -> dict[str, Tensor]:
            last = self.names[-1]
            error = _unit_pullback(outputs[last], error) if self.norm else error
            errors = {last: error}
            for name, above in zip(reversed(self.names[:-1]), reversed(self.names[1:]), strict=True):
                error = _activation_pullback(self.activation, outputs[name], error @ weights[above])
                errors[name] = error
            return errors

        return Trace(prediction, inputs, pullback)


def _activate(name: str, z: Tensor) -> Tensor:
    if name == "gelu":
        return F.gelu(z)
    return F.silu(z) if name == "silu" else F.relu(z)


def _activation_pullback(name: str, z: Tensor, error: Tensor) -> Tensor:
    """From d loss / d act(z) to d loss / d z."""
    if name == "gelu":
        return torch.ops.aten.gelu_backward(error, z)
    if name == "silu":
        s = torch.sigmoid(z)
        return error * (s * (1 + z * (1 - s)))
    return error * (z > 0)


def _unit_pullback(z: Tensor, error: Tensor) -> Tensor:
    """From d loss / d unit(z) to d loss / d z."""
    centred = z - z.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    unit = centred * scale
    error = error * (scale / math.sqrt(z.shape[-1]))
    return error - error.mean(-1, keepdim=True) - unit * (error * unit).mean(-1, keepdim=True)
