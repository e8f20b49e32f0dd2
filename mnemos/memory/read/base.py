"""The interface of a read rule: how a key-value memory answers."""

from __future__ import annotations

from torch import Tensor

from mnemos.memory.declaration import Declaration


class Read(Declaration):
    """Every entry gets the weight softmax_j(scale q . k_j); the rule makes an answer of weights, keys and values."""

    scale: float | None = None
    """Factor of the scores; None for 1/sqrt(key_dim)."""

    rotary: float | None = None
    """Base of rotary positions; None for no positions."""

    def answer(self, weights: Tensor, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """weights (..., n, N) that sum to one (or are all zero, where nothing is kept), q (..., n, K), keys
        (..., N, K), values (..., N, V): (..., n, V)."""
        raise NotImplementedError
