"""The interface of a learner: how the memory follows the gradient of its objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control, Controls
from mnemos.state import State

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory


class Learner(Declaration):
    """What one pair (k, v) does to the state. A new learner: its `write`, and its literal form in
    `mnemos.memory.reference`."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The values per token that it needs."""
        return ()

    @property
    def pairs(self) -> int:
        """Key-value pairs that a token brings along."""
        return 1

    def check(self, memory: Memory) -> None:
        """Raises InvalidValue if it cannot work with the memory's other choices, naming what to use instead."""

    def fresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state's entries beside the weights, at the start: weights (1, H, out, in) by name, as the retention
        holds them."""
        return {}

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        """The entries that one token changes. k (B, H, pairs, K), v (B, H, pairs, V), controls (B, H) or (B, H,
        channels), all in the state's dtype. `in_place`: the state's tensors may be overwritten."""
        raise NotImplementedError

    def read(self, memory: Memory, state: State, q: Tensor) -> Tensor:
        """What the state answers to q (B, H, n, K): (B, H, n, V)."""
        return memory.predict(state, q)
