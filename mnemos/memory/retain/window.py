"""Keep the last few entries, and the very first ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnemos.errors import expect
from mnemos.memory.retain.base import ByPosition


@dataclass(frozen=True)
class Window(ByPosition):
    """The last `size` entries (the current one included) and the first `sinks` ones, which are never dropped.

    Sinks take the attention that a softmax must put somewhere; dropping them ruins a model that was trained with
    them in sight (StreamingLLM, arXiv 2309.17453). Positions are counted inside the kept entries, so a sink is
    never further away than it could be in training: from the newest entry, at most size + sinks - 1.
    """

    size: int = 256
    sinks: int = 0

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"Window(size=) counts the current token, so at least 1; got {self.size}.")
        expect(self.sinks >= 0, f"Window(sinks=) is a number of entries, at least 0; got {self.sinks}.")

    @property
    def capacity(self) -> int | None:
        return self.size + self.sinks

    def kept(self, count: int) -> Sequence[int]:
        first_recent = max(count - self.size, min(self.sinks, count))
        return [*range(min(self.sinks, count)), *range(first_recent, count)]
