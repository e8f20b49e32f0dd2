"""The interface of a retention: what becomes of the weights from token to token, the gradient step aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control, Controls

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory


class Retention(Declaration):
    """How the state A of a memory goes on, and which weights W it stands for:

        A_t = combine(retain(A_t-1), step_t)        W_t = link(A_t)

    `step` is the learner's, -rate_t times the gradient by W without momentum. Most retentions keep the weights
    themselves (W = A) and add. Those that come from a regulariser other than a square (mirror descent) keep the dual
    A of the weights, or do more than add.
    """

    scaling: Literal["none", "head", "channel"] | None = None
    """Fact: A_t = A_t-1 * control "decay" + step with W = A, and what the factor is per. "none" is a factor of 1; None,
    which claims nothing, anything else."""

    dual_scaling: Literal["none", "head"] | None = None
    """Fact: A_t = A_t-1 * control "decay" + step with W = link(A) whatever it is, and what the factor is per; claimed
    where `scaling` is not. None claims nothing."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The values per token that it needs."""
        return ()

    def check(self, memory: Memory) -> None:
        """Raises InvalidValue if it cannot work with the memory's other choices, naming what to use instead."""

    def check_sizes(self, key_dim: int, value_dim: int) -> None:
        """Raises InvalidValue unless it can work with keys and values of this size."""

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        """A (B, H, out, in), every control of the memory (B, H) or (B, H, channels) -> the retained A."""
        return state

    def combine(self, retained: Tensor, step: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        """The next A."""
        return retained.add_(step) if in_place else retained + step

    def link(self, state: Tensor) -> Tensor:
        """A -> W, (..., out, in)."""
        return state

    def unlink(self, weight: Tensor) -> Tensor:
        """An A that stands for (or near) the given initial weights."""
        return weight
