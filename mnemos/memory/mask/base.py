"""The interface of a mask: which kept entries a query looks at, by position."""

from __future__ import annotations

from torch import Tensor

from mnemos.memory.declaration import Declaration


class Mask(Declaration):
    """A pattern of sparse attention that depends on positions alone."""

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        """Whether a query at `asked` looks at the entry written at `position` <= asked: whole numbers that broadcast
        against each other, to bool. What it says of later positions does not matter."""
        raise NotImplementedError

    @property
    def reach(self) -> int | None:
        """How many tokens back it looks at most; None without bound."""
        return None
