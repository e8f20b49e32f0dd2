"""The interface of an objective: a loss of the prediction M(k) against the value v."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control, Controls


class Objective(Declaration):
    """A loss per token and its derivative at the prediction."""

    slope_kind: Literal["constant", "identity", "nonlinear"] = "nonlinear"
    """Fact: how the derivative depends on the residual r = M(k) - v.

    "constant": not at all (it is -v); "identity": it is r; "nonlinear": anything else, which claims nothing.
    """

    coordinatewise: bool = False
    """Fact: channel i of the slope depends on channel i of the prediction alone."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The values per token that it needs."""
        return ()

    def loss(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        """(..., V), (..., V), its controls (...) or (..., channels) -> (...)."""
        raise NotImplementedError

    def slope(self, prediction: Tensor, value: Tensor, controls: Controls) -> Tensor:
        """The derivative of the loss by the prediction, (..., V)."""
        raise NotImplementedError
