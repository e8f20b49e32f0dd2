"""A way to look at every run of a memory inside a layer or a model, from outside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from mnemos.memory import AnyMemory, Controls
from mnemos.state import State

Watcher = Callable[[AnyMemory, Tensor, Tensor, Tensor, Controls, Tensor | None, Tensor, State], None]
"""Is told memory, q, k, v, controls, lengths, outputs and the state after them."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Within, `watcher` is told of every run of a memory in this thread, in the order in which they happen."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def present_watcher() -> Watcher | None:
    """The watcher of the `watched_by` around, if there is one."""
    return _watcher.get()
