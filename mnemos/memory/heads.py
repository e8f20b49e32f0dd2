"""Grouped heads: several heads of queries share one of keys and values."""

from __future__ import annotations

from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.places import statistics_dtype
from mnemos.memory.read import Read


def fold(x: Tensor, heads: int) -> Tensor:
    """(B, n, heads * group, ...) -> (B, heads, group * n, ...): the queries of a group one behind the other."""
    return x.unflatten(2, (heads, -1)).movedim(1, 3).flatten(2, 3)


def unfold(x: Tensor, number: int) -> Tensor:
    """(B, heads, group * n, ...) -> (B, n, heads * group, ...)."""
    return x.unflatten(2, (-1, number)).movedim(3, 1).flatten(2, 3)


def respond(
    rule: Read,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    seen: Tensor,
    lag: Tensor,
    position: Tensor,
    controls: Controls,
) -> tuple[Tensor, Tensor]:
    """What queries of a multiple of the keys' heads are answered.

    q (B, n, heads, K), keys (B, H, N, K), values (B, H, N, V), seen and lag (B, H, n, N), position (B, n), controls
    (B, n, heads, ...); the axes H and n of seen and lag, and both axes of position, may be 1 where all are alike.
    Returns answers (B, n, heads, V) and the weights of the entries (B, H, queries of a group, N), those of one head
    behind those of the other, both in float32 where keys have half precision, in which a score of 20 would be off by
    0.06.
    """
    wide = statistics_dtype(keys.dtype)
    q, keys, values = q.to(wide), keys.to(wide), values.to(wide)
    number, heads = q.shape[1], keys.shape[1]
    group = q.shape[2] // heads

    def for_group(x: Tensor) -> Tensor:
        return x if group == 1 or x.shape[2] == 1 else x.repeat(1, 1, group, *[1] * (x.ndim - 3))

    asked = {name: fold(value, heads) for name, value in controls.items()}
    if rule.numbered:
        asked["position"] = for_group(position[:, None])
    lag = lag if rule.plain else for_group(lag)
    out, weights = rule.respond(fold(q, heads), keys, values, for_group(seen), lag, asked)
    return unfold(out, number), weights
