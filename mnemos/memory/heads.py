"""Grouped heads: several heads of queries share one of keys and values."""

from __future__ import annotations

from torch import Tensor


def fold(x: Tensor, heads: int) -> Tensor:
    """(B, n, heads * group, ...) -> (B, heads, group * n, ...): the queries of a group one behind the other."""
    return x.unflatten(2, (heads, -1)).movedim(1, 3).flatten(2, 3)


def unfold(x: Tensor, number: int) -> Tensor:
    """(B, heads, group * n, ...) -> (B, n, heads * group, ...)."""
    return x.unflatten(2, (-1, number)).movedim(3, 1).flatten(2, 3)
