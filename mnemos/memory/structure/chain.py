"""Products with one weight after another, and functions of single tokens whose derivatives are known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mnemos.memory.structure.base import Linear, Structure, Trace


class Chain(Structure):
    """M(x) = end(x, W_n act(... act(W_1 x))).

    A subclass gives the weights' names, `act` and `end`, and their derivatives up to the second: the inner gradient is
    of the first order, and training goes through that gradient. By default `act` is missing and `end` gives the last
    product, which is M of a single matrix.
    """

    residual: bool = False
    """Whether `end` adds x."""

    @property
    def names(self) -> tuple[str, ...]:
        """The weights in the order of the forward pass."""
        raise NotImplementedError

    def act(self, z: Tensor) -> Tensor:
        """The function between two weights, element by element."""
        raise NotImplementedError

    def act_slope(self, z: Tensor) -> Tensor:
        """Its derivative."""
        raise NotImplementedError

    def act_curvature(self, z: Tensor) -> Tensor:
        """Its second derivative."""
        raise NotImplementedError

    def end(self, x: Tensor, z: Tensor) -> Tensor:
        """M(x) from x and the last product z, (..., V)."""
        return z

    def end_pullback(self, z: Tensor, error: Tensor) -> Tensor:
        """From d loss / d M(x) to d loss / d z. Linear in `error`, by a symmetric matrix."""
        return error

    def end_pullback_slope(self, z: Tensor, error: Tensor, grad: Tensor) -> Tensor:
        """The derivative of <grad, end_pullback(z, error)> by z."""
        return torch.zeros_like(z)

    def forward(self, linear: Linear, x: Tensor) -> Tensor:
        h = x
        for name in self.names[:-1]:
            h = self.act(linear(name, h))
        return self.end(x, linear(self.names[-1], h))

    def trace(self, weights: Mapping[str, Tensor], x: Tensor) -> Trace:
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}

        def linear(name: str, h: Tensor) -> Tensor:
            inputs[name] = h
            outputs[name] = h @ weights[name].mT
            return outputs[name]

        prediction = self.forward(linear, x)

        def pullback(error: Tensor) -> dict[str, Tensor]:
            last = self.names[-1]
            errors = {last: self.end_pullback(outputs[last], error)}
            for name, above in zip(reversed(self.names[:-1]), reversed(self.names[1:]), strict=True):
                errors[name] = self.act_slope(outputs[name]) * (errors[above] @ weights[above])
            return errors

        return Trace(prediction, inputs, pullback)
