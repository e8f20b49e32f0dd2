"""The interface of a retention: what happens to the weights between two tokens."""

from __future__ import annotations

from torch import Tensor

from mnemos.memory.declaration import Declaration
from mnemos.memory.protocol import Control


class Retention(Declaration):
    """W_t-1 -> retained W_t-1."""

    control: Control | None = None
    """The value per token that it needs."""

    def retain(self, weight: Tensor, control: Tensor | None, in_place: bool = False) -> Tensor:
        """weight (B, H, out, in), control (B, H) or (B, H, K) -> the retained weight."""
        raise NotImplementedError
