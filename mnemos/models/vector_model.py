"""A model for vectors: vectors in, vectors out, a state between calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.memory.checks import check_finite
from mnemos.models.spec import ModelSpec
from mnemos.models.stack import Stack
from mnemos.state import Owner, State


class VectorModel(Stack):
    """The blocks that a `ModelSpec` describes between two linear layers: for regression, series and other sequences
    of numbers.

    inputs: channels of every input vector. outputs: channels of every output vector. What the spec says of tokens
    (vocabulary, tied, scaled_embedding, logit_cap) does not concern it. Raises InvalidValue for fewer than one channel,
    and for layers that answer late.
    """

    def __init__(self, spec: ModelSpec, *, inputs: int, outputs: int):
        super().__init__(spec)
        expect(
            spec.delay == 0,
            f"VectorModel takes layers that answer at once; those of this spec come {spec.delay} tokens late.",
        )
        for name, channels in (("inputs", inputs), ("outputs", outputs)):
            expect(
                isinstance(channels, int) and not isinstance(channels, bool) and channels >= 1,
                f"VectorModel({name}=) is a whole number of channels of at least 1; got {channels!r}.",
            )
        self.inputs, self.outputs = inputs, outputs
        self.embedding = nn.Linear(inputs, spec.width)
        self._blocks()
        self.head = nn.Linear(spec.width, outputs)
        self._start()

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        checks: bool = False,
    ) -> tuple[Tensor, State]:
        """The output at every vector, and the state after the last.

        x: (batch, time, inputs), of the weights' dtype. reset: (batch, time) bool, every memory starts afresh before
        these vectors. mask: (batch, time) bool, False marks padding; its outputs are zero. checks: whether to look for
        NaN and infinity in the results, and for where they came from. Returns y (batch, time, outputs).

        Raises InvalidType or InvalidValue for a wrong dtype, shape or NaN, StateError for a state of another model or
        batch; with `checks`, Diverged if the results are not finite, naming row, layer, head and token, or the weights
        that are not finite themselves.
        """
        return self._read(x, state, reset, mask, checks)

    @property
    def owner(self) -> Owner:
        return (("model", self.spec.to_json()), ("inputs", self.inputs), ("outputs", self.outputs))

    @property
    def _weight(self) -> Tensor:
        return self.embedding.weight

    def _embedded(self, inputs: Tensor) -> Tensor:
        return self.embedding(inputs)

    def answered(self, x: Tensor) -> Tensor:
        return self.head(x)

    def _check_inputs(self, inputs: Tensor) -> None:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            given = getattr(inputs, "dtype", type(inputs).__name__)
            raise InvalidType(f"x must be a floating point tensor; got {given}.")
        if inputs.ndim != 3 or inputs.shape[-1] != self.inputs:
            raise InvalidValue(f"x must be (batch, time, {self.inputs}); got shape {tuple(inputs.shape)}.")
        dtype = self._weight.dtype
        if inputs.dtype != dtype and not torch.is_autocast_enabled(inputs.device.type):
            raise InvalidType(f"x is {inputs.dtype} and the model's weights are {dtype}: convert the one or the other.")
        check_finite("x", inputs)

    def _some_inputs(self, length: int) -> Tensor:
        return self._weight.new_zeros(1, length, self.inputs)

    @property
    def _ends_flops(self) -> float:
        return 2.0 * (self.inputs + self.outputs) * self.spec.width
