"""The interface of an objective: a loss of the prediction M(k) against the value v."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mnemos.memory.declaration import Declaration


class Objective(Declaration):
    """A loss per token and its derivative at the prediction."""

    slope_kind: Literal["constant", "identity", "nonlinear"] = "nonlinear"
    """Fact: how the derivative depends on the residual r = M(k) - v.

    "constant": not at all (it is -v); "identity": it is r; "nonlinear": anything else, which claims nothing.
    """

    def loss(self, prediction: Tensor, value: Tensor) -> Tensor:
        """(..., V), (..., V) -> (...)."""
        raise NotImplementedError

    def slope(self, prediction: Tensor, value: Tensor) -> Tensor:
        """The derivative of the loss by the prediction, (..., V)."""
        raise NotImplementedError
