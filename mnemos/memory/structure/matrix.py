"""One matrix: M(k) = W k."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.memory.structure.chain import Chain


@dataclass(frozen=True)
class Matrix(Chain):
    """M(k) = W k with W (V, K): the associative memory of linear attention and the delta rule.

    learned: the layer learns the initial W (one per head); otherwise W_0 = 0.
    """

    learned: bool = False
    linear_in_weights = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("matrix",)

    def shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, int]]:
        return {"matrix": (value_dim, key_dim)}

    def initial(self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {"matrix": torch.zeros(heads, value_dim, key_dim)}
