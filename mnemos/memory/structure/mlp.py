"""A multi-layer perceptron whose weights are the memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.structure.chain import Chain

EPSILON = 1e-4
FEW = 2**14
"""Numbers up to which gelu is computed by its formula: the library's function takes 30 us before it begins, and its
derivative 70."""


@dataclass(frozen=True)
class MLP(Chain):
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

    def act(self, z: Tensor) -> Tensor:
        if self.activation == "gelu":
            return F.gelu(z) if z.numel() > FEW else z * torch.special.ndtr(z)
        return F.silu(z) if self.activation == "silu" else F.relu(z)

    def act_slope(self, z: Tensor) -> Tensor:
        if self.activation == "gelu":
            if z.numel() <= FEW:
                return torch.special.ndtr(z) + z * _density(z)
            return torch.ops.aten.gelu_backward(z.new_ones(()).expand_as(z), z)
        if self.activation == "silu":
            s = torch.sigmoid(z)
            return s * (1 + z * (1 - s))
        return (z > 0).to(z.dtype)

    def act_curvature(self, z: Tensor) -> Tensor:
        if self.activation == "gelu":
            return _density(z) * (2 - z.square())
        if self.activation == "silu":
            s = torch.sigmoid(z)
            return s * (1 - s) * (2 + z * (1 - 2 * s))
        return torch.zeros_like(z)

    def end(self, x: Tensor, z: Tensor) -> Tensor:
        if self.norm:
            z = F.layer_norm(z, z.shape[-1:], eps=EPSILON) / math.sqrt(z.shape[-1])
        return x + z if self.residual else z

    def end_pullback(self, z: Tensor, error: Tensor) -> Tensor:
        if not self.norm:
            return error
        error = error / math.sqrt(z.shape[-1])
        if torch.is_grad_enabled():  # the second derivatives of the library's function, below, are wrong
            centred = z - z.mean(-1, keepdim=True)
            scale = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
            unit, error = centred * scale, error * scale
            return error - error.mean(-1, keepdim=True) - unit * (error * unit).mean(-1, keepdim=True)
        _, mean, scale = torch.native_layer_norm(z, z.shape[-1:], None, None, EPSILON)
        wanted = [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(error, z, z.shape[-1:], mean, scale, None, None, wanted)[0]

    def end_pullback_slope(self, z: Tensor, error: Tensor, grad: Tensor) -> Tensor:
        if not self.norm:
            return torch.zeros_like(z)
        unit, _, scale = torch.native_layer_norm(z, z.shape[-1:], None, None, EPSILON)
        error, grad = (y - y.mean(-1, keepdim=True) for y in (error, grad))
        along, across = ((y * unit).mean(-1, keepdim=True) for y in (error, grad))
        both = (error * grad).mean(-1, keepdim=True) - 3 * along * across
        return (unit * both + grad * along + error * across) * (-scale.square() / math.sqrt(z.shape[-1]))


def _density(z: Tensor) -> Tensor:
    """The normal distribution's."""
    return torch.add(-0.5 * math.log(2 * math.pi), z.square(), alpha=-0.5).exp()
