"""The interface of a retention of entries."""

from __future__ import annotations

from collections.abc import Sequence

from mnemos.memory.declaration import Declaration


class Retain(Declaration):
    """Which of the entries written so far are kept."""

    @property
    def capacity(self) -> int | None:
        """The most entries it keeps; None without bound."""
        raise NotImplementedError

    def kept(self, count: int) -> Sequence[int]:
        """The positions that are kept after `count` tokens, in order."""
        raise NotImplementedError
