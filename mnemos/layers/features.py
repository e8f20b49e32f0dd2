"""Feature maps of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mnemos.memory.declaration import Declaration


class FeatureMap(Declaration):
    """q and k, (..., key_dim) -> what the memory gets, (..., width(key_dim))."""

    def width(self, key_dim: int) -> int:
        """Channels of the features of `key_dim` channels."""
        return key_dim

    def __call__(self, x: Tensor) -> Tensor:
        """The features of queries or keys."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unit(FeatureMap):
    """x / |x|: the length 1 that keeps gradient steps on a memory stable."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


@dataclass(frozen=True)
class Elu(FeatureMap):
    """elu(x) + 1, positive (linear attention, arXiv 2006.16236)."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1
