"""Episodes of a fixed number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from mnemos.errors import expect
from mnemos.memory.episode.boundary import Boundary


@dataclass(frozen=True)
class Every(Boundary):
    """An episode ends after `size` tokens: chunks (HCAM, arXiv 2105.14039), blocks (InfLLM, arXiv 2402.04617)."""

    size: int = 32

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"Every(size=) is a number of tokens of at least 1; got {self.size}.")

    @property
    def shortest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.size

    @property
    def longest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.size
