"""Reading a saved state back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mnemos.state.disk import read_file
from mnemos.state.state import State


class StateOwner(Protocol):
    """Whatever states belong to: a memory, a layer, a model."""

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state is one of its own."""
        ...


def load_state(path: str | os.PathLike[str], *, for_: StateOwner | None = None) -> State:
    """Read a state that `State.save` wrote, on the CPU; `.to(device)` moves it.

    for_: the memory, layer or model it is for. Raises StateError if the file is missing, cut short or no saved
    state, or if the state belongs to another owner.
    """
    tensors, tree = read_file(Path(path))
    state = _rebuild(tree, tensors, "")
    if for_ is not None:
        for_.check_state(state)
    return state


def _rebuild(tree: dict[str, Any], tensors: dict[str, Tensor], prefix: str) -> State:
    entries: dict[str, Tensor | State] = {}
    fresh: dict[str, Tensor] = {}
    for name, child in tree["entries"].items():
        if child is not None:
            entries[name] = _rebuild(child, tensors, f"{prefix}{name}.")
            continue
        entries[name] = tensors[prefix + name]
        fresh[name] = tensors[f"fresh:{prefix}{name}"]
    owner = tuple((name, value) for name, value in tree["owner"])
    return State(owner, entries, fresh)
