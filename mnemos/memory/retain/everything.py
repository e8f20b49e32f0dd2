"""Keep every entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnemos.memory.retain.base import ByPosition


@dataclass(frozen=True)
class Everything(ByPosition):
    """Full attention: the state grows by one entry a token."""

    @property
    def capacity(self) -> int | None:
        return None

    def kept(self, count: int) -> Sequence[int]:
        return range(count)
