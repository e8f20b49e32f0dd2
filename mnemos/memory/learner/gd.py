"""Gradient descent, with or without momentum, and where its gradient is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mnemos.memory.declaration import Declaration, expect
from mnemos.memory.protocol import Control


@dataclass(frozen=True)
class Chunk(Declaration):
    """An anchor: gradients of `size` consecutive tokens are all taken at the state before the first of them.

    This is another function than the per-token rule for size > 1 (TTT and deep Titans define it so), which is why
    it belongs to the declaration. Chunks are counted from the start of the memory's life, so cutting a sequence
    anywhere changes nothing.
    """

    size: int = 16

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"Chunk(size=) is a number of tokens of at least 1; got {self.size}.")


@dataclass(frozen=True)
class GD(Declaration):
    """Gradient descent on each token's loss g_t = grad loss(M(k_t), v_t):

        S_t = momentum_t S_t-1 - rate_t g_t        (S_t = -rate_t g_t without momentum)
        W_t = retained(W_t-1) + S_t

    rate: a constant, or None for a control per token and head. momentum: a control per token and head, in [0, 1].
    anchor: the weights at which g_t is taken. "retained": after forgetting (Gated DeltaNet and the linear
    recurrences). "previous": W_t-1 as it was, before forgetting (Titans, Miras). Chunk(n): the state before
    the current chunk of n tokens (TTT, deep Titans).
    """

    rate: float | None = None
    momentum: bool = False
    anchor: Literal["retained", "previous"] | Chunk = "retained"

    def __post_init__(self) -> None:
        expect(
            self.anchor in ("retained", "previous") or isinstance(self.anchor, Chunk),
            f'GD(anchor=) is "retained", "previous" or Chunk(n); got {self.anchor!r}.',
        )
        expect(
            self.rate is None or (math.isfinite(self.rate) and self.rate >= 0),
            f"GD(rate=) is a number of at least 0, or None for a control per token; got {self.rate}.",
        )

    @property
    def controls(self) -> tuple[Control, ...]:
        """The values per token that it needs."""
        rate = Control("rate", "head", 0.0, math.inf, "step size of the inner gradient step")
        momentum = Control("momentum", "head", 0.0, 1.0, "share of the previous step that goes on")
        return (*([rate] if self.rate is None else []), *([momentum] if self.momentum else []))
