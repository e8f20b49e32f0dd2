"""The interface of an executor: one algorithm that runs some memories over a whole sequence."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from mnemos.execute.request import Request
from mnemos.memory import Controls
from mnemos.state import State


class Executor(Protocol):
    """One algorithm. Executors never choose between themselves; `mnemos.lowering` does."""

    name: str
    summary: str

    def declines(self, memory: Any, request: Request) -> str | None:
        """Why it cannot run this memory; None if it can."""
        ...

    def flops(self, memory: Any, request: Request) -> float:
        """Floating point operations of the forward pass, to leading order."""
        ...

    def run(
        self,
        memory: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        """Outputs (B, T, H, V) and the state after each row's last token. Tokens at or beyond `lengths` (B,) of a row
        are padding: they leave the state alone and their outputs mean nothing."""
        ...
