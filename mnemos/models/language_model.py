"""A language model: tokens in, logits of the next token out, a state between calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue
from mnemos.models.spec import ModelSpec
from mnemos.models.stack import Stack
from mnemos.state import State


class LanguageModel(Stack):
    """The model that a `ModelSpec` describes."""

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        self.outputs = spec.vocabulary
        self.embedding = nn.Embedding(spec.vocabulary, spec.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self._blocks()
        self.head = None if spec.tied else nn.Linear(spec.width, spec.vocabulary, bias=False)
        self._start()

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        checks: bool = False,
    ) -> tuple[Tensor, State]:
        """Logits for the token after each one, and the state after the last.

        tokens: (batch, time) int64 in [0, vocabulary). reset: (batch, time) bool, every memory starts afresh before
        these tokens (documents packed into one row). mask: (batch, time) bool, False marks padding; its logits are
        zero. Where layers answer late (`spec.delay`) they belong to an earlier token, and are zero at the first ones.
        checks: whether to look for NaN and infinity in the results, and for where they came from. Returns logits
        (batch, time, vocabulary).

        Raises InvalidType or InvalidValue for tokens of wrong dtype, shape or range, StateError for a state of
        another model or batch; with `checks`, Diverged if the results are not finite, naming row, layer, head and
        token, or the weights that are not finite themselves.
        """
        return self._read(tokens, state, reset, mask, checks)

    @property
    def _weight(self) -> Tensor:
        return self.embedding.weight

    def _embedded(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        if self.spec.scaled_embedding:
            x = x * self.spec.width**0.5
        return x

    def answered(self, x: Tensor) -> Tensor:
        weight = self.embedding.weight if self.head is None else self.head.weight
        logits, cap = F.linear(x, weight), self.spec.logit_cap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def _check_inputs(self, inputs: Tensor) -> None:
        if not isinstance(inputs, Tensor) or inputs.dtype != torch.int64:
            given = getattr(inputs, "dtype", type(inputs).__name__)
            raise InvalidType(f"tokens must be an int64 tensor; got {given}.")
        if inputs.ndim != 2:
            raise InvalidValue(f"tokens must be (batch, time); got shape {tuple(inputs.shape)}.")
        if torch.compiler.is_compiling() or not inputs.numel():
            return
        low, high = int(inputs.min()), int(inputs.max())
        if low < 0 or high >= self.spec.vocabulary:
            raise InvalidValue(f"tokens must lie in [0, {self.spec.vocabulary}); got values from {low} to {high}.")

    def _some_inputs(self, length: int) -> Tensor:
        return torch.zeros(1, length, dtype=torch.int64, device=self.embedding.weight.device)

    @property
    def _ends_flops(self) -> float:
        return 2.0 * self.spec.vocabulary * self.spec.width
