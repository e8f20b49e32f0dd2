"""What every kind of memory offers, and what it may ask of the layer around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mnemos.state import Owner, State

Controls = Mapping[str, Tensor]
"""Values per token by name: (batch, heads) or (batch, heads, channels) in `write`, with a time axis in `run`."""

Per = Literal["head", "channel", "value", "pair", "value_pair", "count"]


@dataclass(frozen=True)
class Control:
    """A value per token that a memory needs from outside.

    per: how many numbers a head. "head": one; "channel": one a key channel; "value": one a value channel; "pair": one
    a pair of key channels; "value_pair": one a pair of value channels; "count": `count`. Values must lie in
    [low, high].
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
            "channel": key_dim,
            "value": value_dim,
            "pair": key_dim // 2,
            "value_pair": value_dim // 2,
            "count": self.count,
        }[self.per]


@runtime_checkable
class AnyMemory(Protocol):
    """The protocol of all kinds of memory: pure, frozen, hashable declarations that hold no tensors.

    Legend of axes: B batch, T time, H heads, K key_dim, V value_dim.
    """

    @property
    def controls(self) -> tuple[Control, ...]:
        """What it needs from outside, per token."""
        ...

    @property
    def pairs(self) -> int:
        """Key-value pairs that a token brings along: its k and v hold that many, one behind the other."""
        ...

    @property
    def kept(self) -> str:
        """What it keeps, in a few words."""
        ...

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        """The learned tensors of its initial state, per head: name -> shape. Empty: it starts from nothing."""
        ...

    def initial_weights(
        self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Starting values for those tensors, each (H, *shape)."""
        ...

    def owner(self, heads: int, key_dim: int, value_dim: int) -> Owner:
        """Whose states these are."""
        ...

    def init(
        self,
        batch: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        weights: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """A state that has seen nothing."""
        ...

    def write(self, state: State, k: Tensor, v: Tensor, controls: Controls | None = None) -> State:
        """The state after one token: k (B, H, K), v (B, H, V)."""
        ...

    def read(self, state: State, q: Tensor) -> Tensor:
        """What the state answers to q (B, H, K): (B, H, V)."""
        ...

    def step(
        self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls | None = None
    ) -> tuple[Tensor, State]:
        """One token: `write` and `read` in this memory's order."""
        ...

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        """`step` for callers that have checked their inputs."""
        ...

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the state beside inputs of `dtype`."""
        ...

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state is one of this memory's."""
        ...

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        """Floating point operations of one `step` of one head after `context` tokens, to leading order."""
        ...

    def to_json(self) -> str:
        """This declaration as JSON."""
        ...
