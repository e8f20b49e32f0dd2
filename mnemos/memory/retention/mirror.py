"""What the retentions of mirror descent share: a dual state that is scaled and added to, and a map from it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mnemos.memory.control import Control, Controls
from mnemos.memory.retention.base import Retention


class Mirror(Retention):
    """A_t = decay_t A_t-1 + step_t, W_t = link(A_t): follow the regularised leader with a regulariser whose gradient
    is the inverse of `link`. Subclasses are dataclasses with a field `decay`; False is a decay of 1."""

    decay: bool

    @property
    def dual_scaling(self) -> Literal["none", "head"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "head" if self.decay else "none"

    @property
    def controls(self) -> tuple[Control, ...]:
        meaning = "factor of the dual state; 0 goes back to where the regulariser is smallest"
        return (Control("decay", "head", 0.0, 1.0, meaning),) if self.decay else ()

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        if not self.decay:
            return state
        factor = controls["decay"][..., None, None]
        return state.mul_(factor) if in_place else state * factor
