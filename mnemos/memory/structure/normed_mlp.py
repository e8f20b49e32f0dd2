"""A perceptron with biases and layer normalisation at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.structure.base import Linear, Structure, Trace

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory

EPSILON = 1e-6
START = 0.02


@dataclass(frozen=True)
class NormedMLP(Structure):
    """M(x) = norm(W_n gelu(... gelu(W_1 x + b_1) ...) + b_n), the memory of TTT-Linear (depth=1) and TTT-MLP (depth=2)
    (arXiv 2407.04620); norm(z) = (z - mean z) / sqrt(var z + 1e-6), gelu by its tanh formula.

    A bias is a fast weight like any other, of one input that is always 1. depth: number of weight matrices, 1 to 8.
    expansion: hidden width over key_dim. The initial weights are learned; matrices start at random with standard
    deviation 0.02, biases at zero. TTT's gain and shift after the norm are the same for all tokens: `AffineL2` takes
    them as controls. Forgetting must be the same for all of a weight's inputs, as a bias has one only.
    """

    depth: int = 1
    expansion: int = 4
    learned = True

    def __post_init__(self) -> None:
        expect(1 <= self.depth <= 8, f"NormedMLP(depth=): 1 to 8 weight matrices; got {self.depth}.")
        expect(self.expansion >= 1, f"NormedMLP(expansion=): a whole number of at least 1; got {self.expansion}.")

    @property
    def levels(self) -> list[tuple[str, str]]:
        """The names of each level's matrix and bias."""
        return [(f"layer{i + 1}", f"bias{i + 1}") for i in range(self.depth)]

    def check(self, memory: Memory) -> None:
        expect(
            memory.retention.scaling in ("none", "head"),
            f"{self} has biases, whose one input cannot be forgotten channel by channel as {memory.retention} wants "
            'it: use Keep() or Decay(per="head"), or MLP() with this retention.',
        )

    def shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, int]]:
        widths = [key_dim, *[self.expansion * key_dim] * (self.depth - 1), value_dim]
        found: dict[str, tuple[int, int]] = {}
        for i, (matrix, bias) in enumerate(self.levels):
            found |= {matrix: (widths[i + 1], widths[i]), bias: (widths[i + 1], 1)}
        return found

    def initial(self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {
            name: torch.zeros(heads, *shape)
            if name.startswith("bias")
            else START * torch.randn(heads, *shape, generator=generator)
            for name, shape in self.shapes(key_dim, value_dim).items()
        }

    def forward(self, linear: Linear, x: Tensor) -> Tensor:
        h, one = x, torch.ones_like(x[..., :1])
        for i, (matrix, bias) in enumerate(self.levels):
            h = F.gelu(h, approximate="tanh") if i else h
            h = linear(matrix, h) + linear(bias, one)
        return F.layer_norm(h, h.shape[-1:], eps=EPSILON)

    def trace(self, weights: Mapping[str, Tensor], x: Tensor) -> Trace:
        inputs: dict[str, Tensor] = {}
        sums: list[Tensor] = []
        one = torch.ones_like(x[..., :1])
        h = x
        for matrix, bias in self.levels:
            h = F.gelu(sums[-1], approximate="tanh") if sums else h
            inputs |= {matrix: h, bias: one}
            sums.append(h @ weights[matrix].mT + weights[bias].mT)

        def pullback(error: Tensor) -> dict[str, Tensor]:
            error = _norm_pullback(sums[-1], error)
            errors = dict.fromkeys(self.levels[-1], error)
            for i in range(self.depth - 2, -1, -1):
                error = (error @ weights[self.levels[i + 1][0]]) * _gelu_slope(sums[i])
                errors |= dict.fromkeys(self.levels[i], error)
            return errors

        return Trace(F.layer_norm(sums[-1], sums[-1].shape[-1:], eps=EPSILON), inputs, pullback)


def _norm_pullback(z: Tensor, error: Tensor) -> Tensor:
    """From d loss / d norm(z) to d loss / d z = (error - mean error - norm(z) mean(error * norm(z))) / std."""
    centred = z - z.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    unit = centred * scale
    return scale * (error - error.mean(-1, keepdim=True) - unit * (error * unit).mean(-1, keepdim=True))


def _gelu_slope(z: Tensor) -> Tensor:
    """The derivative of gelu's tanh formula."""
    share = math.sqrt(2 / math.pi)
    bent = torch.tanh(share * (z + 0.044715 * z**3))
    return 0.5 * (1 + bent) + 0.5 * z * (1 - bent.square()) * share * (1 + 3 * 0.044715 * z.square())
