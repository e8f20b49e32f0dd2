"""Rows that hold several documents, or padding: which state each token sees.

One rearrangement serves every memory, layer and model. A row is cut where `reset` says that the memory starts
afresh; each piece, without its padding, becomes a row of its own, padded at its *end* only, where a causal model
cannot see it. Nothing that runs on these rows has to know about documents: it only gets their lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue
from mnemos.state.state import State

RowsFunction = Callable[[list[Tensor], State, Tensor | None], tuple[Tensor, State]]
"""(inputs (rows, time, ...), state, lengths (rows,) or None for all full) -> (outputs (rows, time, ...), state)"""


def check_flags(name: str, flags: Tensor | None, batch: int, time: int) -> None:
    """Raises unless `flags` is None or a boolean tensor of shape (batch, time)."""
    if flags is None:
        return
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        raise InvalidType(f"{name}= takes a boolean tensor; got {getattr(flags, 'dtype', type(flags).__name__)}.")
    if flags.shape != (batch, time):
        raise InvalidValue(f"{name}= must have shape (batch, time) = ({batch}, {time}); got {tuple(flags.shape)}.")


def over_documents(
    function: RowsFunction, inputs: list[Tensor], state: State, reset: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, State]:
    """Run `function` so that the memory starts afresh before each token where `reset` is True, and so that tokens
    where `mask` is False neither write nor read (their outputs are zero).

    inputs: tensors (batch, time, ...); reset, mask: (batch, time) bool or None. Returns outputs in the order of the
    inputs and the state after each row's last token. Documents are run in groups of similar length, so the padding
    at most doubles the work.
    """
    if reset is None and mask is None:
        return function(inputs, state, None)
    batch, time = inputs[0].shape[:2]
    device = inputs[0].device
    if batch == 0 or time == 0:
        return function(inputs, state, None)
    real = torch.ones(batch, time, dtype=torch.bool, device=device) if mask is None else mask
    starts = torch.zeros_like(real) if reset is None else reset
    if reset is None and bool(real.all()):
        return function(inputs, state, None)

    # Every row opens document 0, which goes on from the incoming state; each reset opens the next one.
    within_row = starts.long().cumsum(1)
    documents_in_row = within_row[:, -1] + 1
    first_of_row = documents_in_row.cumsum(0) - documents_in_row
    document = within_row + first_of_row[:, None]  # (batch, time): a global document number
    total = int(documents_in_row.sum())
    row_of = torch.repeat_interleave(torch.arange(batch, device=device), documents_in_row)
    is_continuation = torch.zeros(total, dtype=torch.bool, device=device)
    is_continuation[first_of_row] = True

    token = torch.arange(batch * time, device=device).view(batch, time)[real]  # the real tokens, row by row
    of_token = document[real]
    lengths = torch.bincount(of_token, minlength=total)
    begin = lengths.cumsum(0) - lengths
    opened = state._select(row_of)._reset(~is_continuation)

    flat = [x.reshape(batch * time, *x.shape[2:]) for x in inputs]
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    states: list[State] = []
    members: list[Tensor] = []
    for group in _groups(lengths):
        size = lengths[group]
        longest = int(size.max())
        members.append(group)
        if longest == 0:  # nothing but padding
            states.append(opened._select(group))
            continue
        offset = torch.arange(longest, device=device)
        valid = offset < size[:, None]
        # Beyond a document's end any token will do: a causal function does not let it reach the real ones.
        position = (begin[group, None] + offset).clamp(max=len(token) - 1)
        index = token[position]
        rows, after = function([x[index] for x in flat], opened._select(group), size)
        outputs.append(rows[valid])
        targets.append(index[valid])
        states.append(after)

    if not outputs:
        one, _ = function([x[:, :1] for x in inputs], state.clone(), None)  # for the shape of an output
        return one.new_zeros(batch, time, *one.shape[2:]), opened._select(first_of_row + documents_in_row - 1)
    joined = torch.cat(outputs)
    result = joined.new_zeros(batch * time, *joined.shape[1:]).index_put((torch.cat(targets),), joined)
    last_of_row = first_of_row + documents_in_row - 1
    place = torch.empty(total, dtype=torch.int64, device=device)
    place[torch.cat(members)] = torch.arange(total, device=device)
    return result.view(batch, time, *joined.shape[1:]), concatenate(states)._select(place[last_of_row])


def _groups(lengths: Tensor) -> list[Tensor]:
    """Indices of documents, grouped by the power of two that their length reaches."""
    scale = torch.ceil(torch.log2(lengths.double().clamp(min=0.5))).long()  # 0 tokens apart from 1
    return [(scale == s).nonzero().flatten() for s in scale.unique().tolist()]


def concatenate(states: list[State]) -> State:
    """States of the same owner, one below the other; shorter time axes are filled up with zeros."""
    if len(states) == 1:
        return states[0]
    entries: dict[str, Tensor | State] = {}
    for name, value in states[0].entries.items():
        if isinstance(value, State):
            entries[name] = concatenate([s.child(name) for s in states])
            continue
        tensors = [s[name] for s in states]
        if value.ndim > 1:
            longest = max(t.shape[1] for t in tensors)
            tensors = [
                torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], 1)
                if t.shape[1] < longest
                else t
                for t in tensors
            ]
        entries[name] = torch.cat(tensors)
    return State(states[0].owner, entries, states[0].fresh)
