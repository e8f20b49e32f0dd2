"""The interface of an executor: one algorithm that runs some memories over a whole sequence."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State


class Executor(Protocol):
    """One algorithm. Executors never choose between themselves; `mnemos.lowering` does."""

    @property
    def name(self) -> str:
        """What it is called in plans and explanations."""
        ...

    @property
    def summary(self) -> str:
        """How it works, in a line."""
        ...

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


def declines_unless_gradient(memory: Any) -> str | None:
    """The reasons that all algorithms for fast weights share: they are for one step of gradient descent a token on
    weights that are at most scaled in between."""
    if not isinstance(memory, Memory):
        return f"it runs memories that learn by the four choices; this is a {type(memory).__name__}"
    if type(memory.learner) is not GD:
        return f"its learner is {type(memory.learner).__name__}, not gradient descent"
    if memory.learner.steps > 1:
        return "a token brings several pairs along (GD(steps=))"
    if memory.retention.scaling is None:
        return f"{type(memory.retention).__name__} does more to the weights than scale them"
    return None


def declines_unless_matrix(memory: Any) -> str | None:
    """`declines_unless_gradient`, and the structure must be one matrix with a gradient for each token."""
    reason = declines_unless_gradient(memory)
    if reason is None and not memory.structure.linear_in_weights:
        return "the structure is not a single matrix"
    if reason is None and memory.learner.anchored:
        return "the learner takes its gradients at the start of a chunk, not token by token"
    return reason
