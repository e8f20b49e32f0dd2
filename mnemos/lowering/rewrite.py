"""Memories that are another memory in disguise: run as that one, on other inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mnemos.execute import Executor, Request
from mnemos.memory import Controls
from mnemos.state import State

Runner = Callable[[Tensor, Tensor, Tensor, Controls, State, "Tensor | None"], tuple[Tensor, State]]
"""(q, k, v, controls, state, lengths) -> (outputs, state): an executor with its memory given."""


class Rewrite(Protocol):
    """One identity between memories."""

    name: str

    def memory(self, memory: Any) -> Any | None:
        """The plainer memory that does the same; None where the identity does not hold."""
        ...

    def request(self, memory: Any, request: Request) -> Request:
        """What is asked of the plainer memory."""
        ...

    def run(
        self,
        memory: Any,
        inner: Runner,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        """As an executor's `run`; `inner` runs the plainer memory. States keep the owner of `memory` throughout."""
        ...


@dataclass(frozen=True)
class Rewritten:
    """An executor for a memory in disguise: a rewrite, then an executor for the plainer memory."""

    rewrite: Rewrite
    inner: Executor

    @property
    def name(self) -> str:
        return f"{self.rewrite.name}: {self.inner.name}"

    @property
    def summary(self) -> str:
        return self.inner.summary

    def declines(self, memory: Any, request: Request) -> str | None:
        return self.inner.declines(self.rewrite.memory(memory), self.rewrite.request(memory, request))

    def flops(self, memory: Any, request: Request) -> float:
        return self.inner.flops(self.rewrite.memory(memory), self.rewrite.request(memory, request))

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
        plainer = self.rewrite.memory(memory)

        def inner(
            q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
        ) -> tuple[Tensor, State]:
            return self.inner.run(plainer, q, k, v, controls, state, lengths)

        return self.rewrite.run(memory, inner, q, k, v, controls, state, lengths)
