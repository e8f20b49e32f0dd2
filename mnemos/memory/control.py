"""What a memory may ask of the layer around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Controls = Mapping[str, Tensor]
"""Values per token by name: (batch, heads) or (batch, heads, channels) in `write`, with a time axis in `run`."""

Per = Literal["head", "channel", "value", "pair", "value_pair", "count"]


@dataclass(frozen=True)
class Control:
    """A value per token that a memory needs from outside.

    per: how many numbers a head. "head": one; "channel": one a key channel, or `count` of them if it is given; "value":
    one a value channel; "pair": one a pair of key channels; "value_pair": one a pair of value channels; "count":
    `count`. Values must lie in [low, high].
    tied: "query" if a layer passes the token's own query, as the memory reads with it, unless its spec names a rule.
    """

    name: str
    per: Per
    low: float
    high: float
    meaning: str
    count: int = 0
    tied: Literal["query"] | None = None

    def size(self, key_dim: int, value_dim: int) -> int | None:
        """Numbers a head; None for a single one without an axis of its own."""
        return {
            "head": None,
            "channel": key_dim * max(self.count, 1),
            "value": value_dim,
            "pair": key_dim // 2,
            "value_pair": value_dim // 2,
            "count": self.count,
        }[self.per]
