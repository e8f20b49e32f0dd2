"""The interface of an executor: one algorithm that runs some memories over a whole sequence."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from mnemos.execute.request import Request
from mnemos.memory import DPLR, GD, AnyMemory, Controls, Decay, Learner, Memory
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


class OtherKind(str):
    """Why an algorithm cannot run a memory: it is made for another kind of memory, or of learner. An explanation names
    all such algorithms in one line."""


def declines_unless_kind(
    memory: Any, kind: type[AnyMemory] = Memory, learner: type[Learner] | None = None
) -> OtherKind | None:
    """The reason of algorithms for one kind of memory, or for the memories of the four choices with one learner."""
    own = type(memory.learner) if isinstance(memory, Memory) else None
    if isinstance(memory, kind) and (learner is None or learner is own):
        return None
    return OtherKind(f"it is for a {_described(kind, learner)}; this is a {_described(type(memory), own)}")


def _described(kind: type[AnyMemory], learner: type[Learner] | None) -> str:
    return kind.__name__ if learner is None else f"{kind.__name__} that learns by {learner.__name__}"


def declines_unless_gradient(memory: Any) -> str | None:
    """The reasons that all algorithms for fast weights share: they are for one step of gradient descent a token on
    weights that are at most scaled in between."""
    if (other := declines_unless_kind(memory, learner=GD)) is not None:
        return other
    if memory.learner.steps > 1:
        return "a token brings several pairs along (GD(steps=))"
    if memory.retention.scaling is None:
        return f"{memory.retention} does more to the weights than scale them by head or key channel"
    return None


def declines_unless_matrix(memory: Any) -> str | None:
    """`declines_unless_gradient`, and the structure must be one matrix with a gradient for each token."""
    reason = declines_unless_gradient(memory)
    if reason is None and not memory.structure.linear_in_weights:
        return "the structure is not a single matrix"
    if reason is None and memory.learner.anchored:
        return "the learner takes its gradients at the start of a chunk, not token by token"
    return reason


def declines_unless_removal(memory: Any) -> str | None:
    """For algorithms of diagonal plus low rank transitions."""
    if (other := declines_unless_kind(memory, learner=GD)) is not None:
        return other
    if not isinstance(memory.retention, DPLR):
        return f"the retention is {type(memory.retention).__name__}, not diagonal plus low rank"
    if memory.learner.momentum or memory.learner.steps > 1:
        return "the learner is not one plain step of gradient descent a token"
    if memory.learner.anchored:
        return "the learner takes its gradients at the start of a chunk, not token by token"
    if not memory.structure.linear_in_weights:
        return "the structure is not a single matrix"
    if memory.objective.slope_kind != "constant":
        return "the objective's gradient depends on the state (only Dot's does not)"
    return None


def declines_unless_elementwise(memory: Any) -> str | None:
    """For algorithms whose decay differs from value channel to value channel, and whose gradient is the value."""
    if (other := declines_unless_kind(memory, learner=GD)) is not None:
        return other
    if memory.learner.steps > 1 or memory.learner.anchored:
        return "it runs one step of gradient descent a token, its gradient taken at that token"
    if not memory.structure.linear_in_weights:
        return "the structure is not a single matrix"
    if type(memory.retention) is not Decay or memory.retention.rotate or memory.retention.per not in ("value", "outer"):
        return 'it is for factors of single value channels, Decay(per="value") or per="outer"'
    if memory.objective.slope_kind != "constant":
        return "the objective's gradient depends on the state (only Dot's does not)"
    return None
