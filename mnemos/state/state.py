"""The state of a memory, a layer or a model: a tree of named tensors whose first axis is the batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, StateError
from mnemos.state.disk import write_file

Owner = tuple[tuple[str, str | int], ...]
"""Whose state this is: facts such as (("memory", "{...}"), ("heads", 4)). Equal owners, interchangeable states."""


def describe_owner(owner: Owner, other: Owner) -> str:
    """The facts of `owner` that `other` does not share, for messages."""
    shared = set(other)
    differing = [f"{name}={value}" for name, value in owner if (name, value) not in shared]
    text = ", ".join(differing) or "nothing further"
    return text if len(text) <= 400 else text[:397] + "..."


class State:
    """What one memory (or a tree of them) keeps between calls.

    `entries` maps names to tensors whose first axis is the batch, or to further states. `fresh` holds, for every
    tensor, the value of a state that has seen nothing, with batch 1; where the second axis grows with time (a
    key-value store), `fresh` may be shorter and counts as followed by zeros. A state belongs to its `owner`.

    Used up: with gradients off, streaming one token updates the tensors in place. The state that was passed in is
    then *spent*, and touching it raises `StateError`; `clone()` before the step to keep a branch.
    """

    def __init__(self, owner: Owner, entries: Mapping[str, Tensor | State], fresh: Mapping[str, Tensor] | None = None):
        self.owner = owner
        self.entries = dict(entries)
        self.fresh = dict(fresh or {})
        self.spent = False

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`; raises StateError if the state is spent."""
        self.refuse_if_spent()
        value = self.entries[name]
        assert isinstance(value, Tensor), f"{name} is a state, not a tensor"
        return value

    def child(self, name: str) -> State:
        """The state called `name` inside this one; raises StateError if it is spent."""
        self.refuse_if_spent()
        value = self.entries[name]
        assert isinstance(value, State), f"{name} is a tensor, not a state"
        return value

    def refuse_if_spent(self) -> None:
        """Raises StateError if this state was updated in place and has moved on."""
        if self.spent:
            raise StateError(
                "this state was already moved on: with gradients off, a step updates the state in place and returns "
                "its successor. Use the state that the step returned, or call state.clone() before the step to branch."
            )

    def spend(self) -> None:
        """Mark this state as moved on; its tensors now belong to its successor."""
        self.spent = True

    def successor(self, **entries: Tensor | State) -> State:
        """The next state of the same owner with these entries."""
        return State(self.owner, entries, self.fresh)

    def expand(self, batch: int) -> State:
        """`batch` rows that all start from this one-row state, and go back to it when reset."""
        self.refuse_if_spent()
        entries: dict[str, Tensor | State] = {}
        fresh: dict[str, Tensor] = {}
        for name, value in self.entries.items():
            if isinstance(value, State):
                entries[name] = value.expand(batch)
            else:
                fresh[name] = value
                entries[name] = value.repeat(batch, *[1] * (value.ndim - 1))
        return State(self.owner, entries, fresh)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors with their dotted names."""
        self.refuse_if_spent()
        for name, value in self.entries.items():
            if isinstance(value, State):
                for inner, tensor in value.tensors():
                    yield f"{name}.{inner}", tensor
            else:
                yield name, value

    @property
    def batch(self) -> int:
        """The number of rows."""
        return next(tensor.shape[0] for _, tensor in self.tensors())

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(tensor.device for _, tensor in self.tensors())

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors, for the whole batch."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.tensors())

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The state with `change` applied to every tensor, those of the fresh state included."""
        self.refuse_if_spent()
        entries = {n: v.map(change) if isinstance(v, State) else change(v) for n, v in self.entries.items()}
        return State(self.owner, entries, {n: change(v) for n, v in self.fresh.items()})

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> State:
        self.refuse_if_spent()
        entries = {n: v._map_rows(change) if isinstance(v, State) else change(v) for n, v in self.entries.items()}
        return State(self.owner, entries, self.fresh)

    def detach(self) -> State:
        """A copy cut from the gradient's graph (truncated back-propagation through time)."""
        return self.map(lambda tensor: tensor.detach().clone())

    def clone(self) -> State:
        """An independent copy: a branch that may go its own way. Differentiable."""
        return self._map_rows(Tensor.clone)

    def to(self, device: torch.device | str) -> State:
        """A copy on another device."""
        return self.map(lambda tensor: tensor.to(device, copy=True))

    def select(self, rows: Tensor) -> State:
        """The rows with these indices, in this order, repeats allowed (beam search, regrouping a batch).

        rows: (n,) int64 in [0, batch). Raises InvalidType or InvalidValue otherwise.
        """
        if not isinstance(rows, Tensor):
            raise InvalidType(f"select takes a tensor of row indices; got {type(rows).__name__}.")
        if rows.dtype != torch.int64 or rows.ndim != 1:
            raise InvalidType(
                f"select takes a vector of int64 row indices; got {rows.dtype} of shape {tuple(rows.shape)}. "
                "For a boolean mask write rows=mask.nonzero().flatten()."
            )
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < self.batch:
            raise InvalidValue(f"select: row indices must lie in [0, {self.batch}); got {rows.tolist()}.")
        return self._select(rows)

    def _select(self, rows: Tensor) -> State:
        return self._map_rows(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))

    def reset(self, mask: Tensor) -> State:
        """The state with the rows where `mask` is True put back to having seen nothing (an episode's end).

        mask: (batch,) bool. Raises InvalidType or InvalidValue otherwise.
        """
        if not isinstance(mask, Tensor):
            raise InvalidType(f"reset takes a boolean tensor, one entry a row; got {type(mask).__name__}.")
        if mask.dtype != torch.bool:
            raise InvalidType(f"reset takes a boolean mask, one entry a row; got {mask.dtype}.")
        if mask.shape != (self.batch,):
            raise InvalidValue(f"reset: this state has {self.batch} rows; the mask has shape {tuple(mask.shape)}.")
        return self._reset(mask)

    def _reset(self, mask: Tensor) -> State:
        self.refuse_if_spent()
        entries: dict[str, Tensor | State] = {}
        for name, value in self.entries.items():
            if isinstance(value, State):
                entries[name] = value._reset(mask)
                continue
            new = self.fresh[name]
            if new.ndim > 1 and new.shape[1] < value.shape[1]:
                new = torch.cat([new, new.new_zeros(1, value.shape[1] - new.shape[1], *new.shape[2:])], dim=1)
            rows = mask.to(value.device).view(-1, *[1] * (value.ndim - 1))
            entries[name] = torch.where(rows, new, value)
        return State(self.owner, entries, self.fresh)

    def check(self, owner: Owner, batch: int, where: str, device: torch.device | None = None) -> None:
        """Raises StateError unless this state belongs to `owner`, has `batch` rows and is on `device` (if given)."""
        self.refuse_if_spent()
        if self.owner != owner:
            raise StateError(
                f"{where}: this state belongs to another owner. It was made with {describe_owner(self.owner, owner)}; "
                f"here stands {describe_owner(owner, self.owner)}. Make one with init_state(batch) or memory.init(...)."
            )
        if self.batch != batch:
            raise StateError(
                f"{where}: the state has {self.batch} rows and the input {batch}. "
                "Use state.select(rows) to regroup the rows, or make a new state for this batch."
            )
        if device is not None and self.device != device:
            raise StateError(
                f"{where}: the state is on {self.device} and the input on {device}. Move it: state.to({str(device)!r})."
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the state to one safetensors file, whole or not at all; read it back with `mn.load_state`."""
        fresh = {f"fresh:{name}": tensor for name, tensor in _fresh(self)}
        return write_file(Path(path), dict(self.tensors()) | fresh, _tree(self))

    def __repr__(self) -> str:
        if self.spent:
            return "State(spent)"
        parts = [f"{n}: {v!r}" if isinstance(v, State) else f"{n}: {tuple(v.shape)}" for n, v in self.entries.items()]
        return "State(" + ", ".join(parts) + ")"


def expect_state(state: object, where: str) -> State:
    """The state itself; raises InvalidType if it is none."""
    if not isinstance(state, State):
        raise InvalidType(
            f"{where}: state= takes a State or None; got {type(state).__name__}. "
            "A call returns a pair (output, state): pass its second part."
        )
    return state


def _fresh(state: State, prefix: str = "") -> list[tuple[str, Tensor]]:
    pairs = [(prefix + name, tensor) for name, tensor in state.fresh.items()]
    for name, value in state.entries.items():
        if isinstance(value, State):
            pairs += _fresh(value, f"{prefix}{name}.")
    return pairs


def _tree(state: State) -> dict[str, Any]:
    names = [*state.fresh, *(n for n in state.entries if n not in state.fresh)]  # a memory relies on fresh's order
    children = {n: _tree(v) if isinstance(v := state.entries[n], State) else None for n in names}
    return {"owner": [list(fact) for fact in state.owner], "entries": children}
