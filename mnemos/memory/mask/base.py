"""The interface of a mask: which kept entries a query looks at, by position."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.declaration import Declaration


class Mask(Declaration):
    """A pattern of sparse attention that depends on positions alone."""

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        """Whether a query at `asked` looks at the entry written at `position` <= asked: whole numbers that broadcast
        against each other, to bool. What it says of later positions does not matter."""
        raise NotImplementedError

    def candidates(self, first: int, last: int, device: torch.device) -> Tensor | None:
        """Positions up to `last`, ascending, among which are all that queries at first ... last look at, so that others
        need not be asked about; None for all. By default, those within reach."""
        if self.reach is None:
            return None
        return torch.arange(max(first - self.reach, 0), last + 1, device=device)

    @property
    def reach(self) -> int | None:
        """How many tokens back it looks at most; None without bound."""
        return None
