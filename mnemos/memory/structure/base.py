"""The interface of a structure: a function of the key whose fast weights are matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mnemos.declaration import Declaration

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory

Linear = Callable[[str, Tensor], Tensor]
"""(name of a fast weight, h (..., n, in)) -> its product with h, (..., n, out)"""


class Trace(NamedTuple):
    """A forward pass at fixed weights that can be differentiated by hand."""

    prediction: Tensor
    inputs: dict[str, Tensor]
    """What each fast weight was multiplied with, (..., n, in)."""
    pullback: Callable[[Tensor], dict[str, Tensor]]
    """From the loss's derivative at the prediction to its derivative at each weight's output, (..., n, out).

    The gradient of one token's loss by weight w is then the outer product of pullback[w] and inputs[w].
    """


class Structure(Declaration):
    """M: key -> value. It touches its fast weights only by multiplying with them, through a `linear` callback.

    That is what lets one algorithm serve all structures: whoever runs the memory decides what a product with a
    weight means (the weight itself, or a whole chunk of its history).
    """

    linear_in_weights: bool = False
    """Fact: M(k) is W k for a single matrix W."""

    learned: bool = False
    """Whether the initial weights are learned by the layer; otherwise they are zero."""

    def check(self, memory: Memory) -> None:
        """Raises InvalidValue if it cannot work with the memory's other choices, naming what to use instead."""

    def shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, int]]:
        """Fast weights by name, each (out, in). Raises InvalidValue where the dimensions do not fit."""
        raise NotImplementedError

    def initial(self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Starting values, each (heads, out, in)."""
        raise NotImplementedError

    def forward(self, linear: Linear, x: Tensor) -> Tensor:
        """M(x) for x (..., n, K): (..., n, V)."""
        raise NotImplementedError

    def trace(self, weights: Mapping[str, Tensor], x: Tensor) -> Trace:
        """M(x) at these weights, with what its gradient needs."""
        raise NotImplementedError
