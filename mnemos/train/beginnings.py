"""With what memory a training window begins.

A model that always starts from an empty memory has never met the states that longer reading brings about, and fails
beyond its training length. Starting windows from other states mends that (arXiv 2507.02782).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import mnemos as mn

InitialState = Literal["fresh", "passed", "noisy", "carried"]


def beginning(kind: InitialState, last: mn.State | None, empty: mn.State, fresh_rows: float) -> mn.State:
    """The state from which a step's windows start.

    kind: "fresh" for the empty memory; "passed" or "carried" for the state that the last step ended with (who reads
    which windows decides whether that is a strange text or the same one); "noisy" for the empty memory plus noise:

        S_0 = empty + N(m_h, s_h^2),   m_h, s_h: mean and deviation of (last - empty) over the entries of head h

    last: the last step's final state, cut from the gradient's graph, or None if there is none to go on from. empty: of
    the model as it is now; a row that starts with it sends gradients to the learned initial memory. fresh_rows: the
    share of rows, drawn at random, that start with it whatever `kind` says.
    """
    if kind == "fresh" or last is None:
        return empty
    begun = _noisy(last, empty) if kind == "noisy" else _renewed(last, empty)
    if fresh_rows == 0:
        return begun
    return begun.reset(torch.rand(begun.batch, device=begun.device) < fresh_rows)


def _renewed(last: mn.State, empty: mn.State) -> mn.State:
    """`last`, but what it goes back to when it is reset is the empty memory of the present model."""
    entries: dict[str, Tensor | mn.State] = {
        name: _renewed(value, empty.child(name)) if isinstance(value, mn.State) else value
        for name, value in last.entries.items()
    }
    return mn.State(last.owner, entries, empty.fresh)


def _noisy(last: mn.State, empty: mn.State) -> mn.State:
    heads = dict(empty.owner).get("heads") if "memory" in dict(empty.owner) else None
    entries: dict[str, Tensor | mn.State] = {}
    for name, value in empty.entries.items():
        then = last.entries[name]
        if isinstance(value, mn.State):
            assert isinstance(then, mn.State)
            entries[name] = _noisy(then, value)
            continue
        assert isinstance(then, Tensor)
        held = value.is_floating_point() and value.ndim > 2 and value.shape[1] == heads and then.shape == value.shape
        entries[name] = value + _noise_like(then - value.detach()) if held else value
    return mn.State(empty.owner, entries, empty.fresh)


def _noise_like(change: Tensor) -> Tensor:
    """Noise of the shape of `change` (B, H, ...) with its mean and deviation in each head."""
    axes = [axis for axis in range(change.ndim) if axis != 1]
    mean, deviation = change.mean(axes, keepdim=True), change.std(axes, keepdim=True, correction=0)
    return mean + deviation * torch.randn_like(change)
