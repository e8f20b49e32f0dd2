"""Running the blocks of a model segment by segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mnemos.models.segments.base import Carried, Piece, changed
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


def in_segments(
    blocks: Sequence[Any],
    norm: Callable[[Tensor], Tensor],
    carried: Carried,
    x: Tensor,
    layers: list[State],
    state: State,
    lengths: Tensor | None,
    note: Callable[[int, Tensor], None],
) -> tuple[Tensor, list[State], State]:
    """x (B, T, width), going on from the states of the layers and of what is carried -> what comes out behind the
    norm, and the states after it. note: is told of every block's output."""
    size, phase, length = carried.size, state["phase"], x.shape[1]
    (aligned,), real = shift_to_chunks([x], phase, lengths, size)
    place, outputs = phase, []
    for piece_x, live in zip(aligned.split(size, 1), real.split(size, 1), strict=True):
        out, layers, state = _piece(blocks, norm, carried, piece_x, live.sum(1), place, layers, state, note)
        outputs.append(out)
        place = torch.zeros_like(phase)
    phase = (phase + (length if lengths is None else lengths)) % size
    return shift_back(torch.cat(outputs, 1), state["phase"], length), layers, changed(state, phase=phase)


def _piece(
    blocks: Sequence[Any],
    norm: Callable[[Tensor], Tensor],
    carried: Carried,
    x: Tensor,
    new: Tensor,
    place: Tensor,
    layers: list[State],
    state: State,
    note: Callable[[int, Tensor], None],
) -> tuple[Tensor, list[State], State]:
    """One segment at most: `new` (B,) tokens of x (B, size, width), each at its place, from `place` (B,) on."""
    size, front, behind = carried.size, carried.before, carried.behind
    some, looking = new > 0, not torch.compiler.is_compiling()
    if looking and not bool(some.any()):
        return x, layers, state
    opens, ends = some & (place == 0), some & (place + new == size)
    if not looking or bool(opens.any()):
        state = carried.begin(state, opens)

    # [first; tokens; last], of which each row takes a stretch.
    parts = [x]
    if front:
        parts.insert(0, carried.first(state).to(x.dtype))
    if behind:
        parts.append(carried.last(state).to(x.dtype))
    whole = torch.cat(parts, 1)
    begin = torch.where(opens, 0, front + place)
    own = torch.where(opens, front, 0)  # where a row's own tokens begin within its stretch
    count = own + new + torch.where(ends, behind, 0)
    count = torch.where(some, count, 0)
    longest = int(count.max()) if looking else whole.shape[1]
    taken = whole[:, :longest] if looking and not begin.any() else _stretch(whole, begin, longest)
    lengths = None if looking and bool((count == longest).all()) else count

    position = torch.arange(longest, device=x.device)
    live = (position >= own[:, None]) & (position < (own + new)[:, None])
    piece = Piece(place, new, opens, ends, live)
    closing = not looking or bool(ends.any())
    y, after = taken, []
    for i, block in enumerate(blocks):
        y, layer, state = carried.enter(i, block, y, layers[i], state, piece)
        y, layer = block.mix(y, layer, lengths)
        y, state = carried.between(i, y, state, piece)
        y = block.feed(y)
        note(i, y)
        if behind and closing:
            state = carried.leave(i, _stretch(y, own + new, behind), state, ends)
        after.append(layer._reset(ends) if carried.restarts and closing else layer)
    y = norm(y)
    hidden = _stretch(y, own - place, size)
    return hidden, after, carried.end(x, hidden, _stretch(y, own + new, behind), state, piece)


def _stretch(x: Tensor, begin: Tensor, size: int) -> Tensor:
    """x (B, T, C) from `begin` (B,) on, `size` tokens, those beyond either end taken from that end."""
    index = (begin[:, None] + torch.arange(size, device=x.device)).clamp(0, x.shape[1] - 1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
