"""Blocks whose layers answer late: the residual stream waits with the queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.state import State


def late_state(blocks: Sequence[Any], like: Tensor) -> State:
    """A one-row state that has seen nothing: for each block whose layer is late its last inputs, (1, delay, width), and
    `count`, the tokens that the model has seen."""
    delays = {str(i): block.layer.delay for i, block in enumerate(blocks) if block.layer.delay}
    entries = {name: like.new_zeros(1, delay, like.shape[-1]) for name, delay in delays.items()}
    entries["count"] = torch.zeros(1, dtype=torch.int64, device=like.device)
    owner = (("part", "late"), ("width", like.shape[-1]), ("delays", str(delays)))
    return State(owner, entries, entries)


def in_waiting(
    blocks: Sequence[Any],
    x: Tensor,
    layers: Sequence[State],
    late: State,
    lengths: Tensor | None,
    note: Callable[[int, Tensor], None],
) -> tuple[Tensor, list[State], State]:
    """x (B, T, width) through all blocks. A block with a delay of d turns token t into

        x_t-d + layer(norm(x))_t,   and then x + ffn(norm(x))

    which belongs to token t - d. Those above it get only what belongs to a token. Returns for every token what has come
    out at the top with it, zero where nothing has, the layers' states and the late state.
    """
    time, count, full = torch.arange(x.shape[1], device=x.device), late["count"], lengths is None
    number = torch.full_like(count, x.shape[1]) if lengths is None else lengths
    given, layers = number, list(layers)
    entries: dict[str, Tensor | State] = {"count": count + number}
    for i, block in enumerate(blocks):
        delay, real = block.layer.delay, None if full else number
        if not delay:
            x, layers[i] = block(x, layers[i], real)
        else:
            y, layers[i] = block.layer.rows(block.norm(x), layers[i], real)
            past = torch.cat([late[str(i)].to(x.dtype), x], 1)
            held = _at(past, number[:, None] + torch.arange(delay, device=x.device))
            entries[str(i)] = held.to(late[str(i)].dtype)
            # The answers of this piece that belong to a token are moved to its beginning.
            early = torch.minimum((delay - count).clamp(min=0), number)
            place = (time + early[:, None]).clamp(max=x.shape[1] - 1)
            x = block.feed(_at(past[:, : x.shape[1]] + y, place))
            count, number = (count - delay).clamp(min=0), number - early
            full = full and not torch.compiler.is_compiling() and not bool(early.any())
        note(i, x)
    moved = given - number
    x = _at(x, (time - moved[:, None]).clamp(min=0))
    return torch.where((time >= moved[:, None])[..., None], x, 0.0), layers, late.successor(**entries)


def flush(model: Any, state: State) -> Tensor:
    """What a model with late layers says of its last tokens if nothing more comes (Attendre, arXiv 2401.04881).

    model: a `LanguageModel` whose `spec.delay` is D; state: one of its own, which stays as it is. Returns logits (B, D,
    vocabulary) of the last D tokens, zero for those before the first. So

        logits, state = model(tokens)
        aligned = torch.cat([logits, flush(model, state)], 1)[:, D:]

    are the logits that belong to each of the tokens, of which each has seen up to D tokens more.

    Raises InvalidValue for a model that is not late, StateError for a state of another model.
    """
    total = model.spec.delay
    expect(
        total > 0, "flush is for models whose layers answer late, such as zoo.attendre(delay=16); this one does not."
    )
    model.check_state(state)
    state = state.clone()  # it is streamed into
    late, count = state.child("late"), state.child("late")["count"]
    reached = torch.minimum(count, torch.full_like(count, total))  # tokens that have not come out yet
    weight = model.embedding.weight
    x, number = weight.new_zeros(len(count), 0, weight.shape[1]), torch.zeros_like(count)
    for i, block in enumerate(model.blocks):
        layer, delay, length = state.child(str(i)), block.layer.delay, x.shape[1]
        if not delay:
            x = block(x, layer, number)[0] if length else x
            continue
        y = x
        if length:
            y, layer = block.layer.rows(block.norm(x), layer, number)
        z = block.layer.flush(layer)
        past = torch.cat([late[str(i)].to(x.dtype), x], 1)
        # Token j of those that come out was answered at place `at` of this piece, or of the queue behind it.
        early = (delay - count).clamp(min=0)
        at = torch.arange(length + delay, device=x.device) + early[:, None]
        answer = _at(z, (at - number[:, None]).clamp(0, delay - 1))
        if length:
            answer = torch.where((at < number[:, None])[..., None], _at(y, at.clamp(max=length - 1)), answer)
        x = block.feed(_at(past, at.clamp(max=length + delay - 1)) + answer)
        count, number = (count - delay).clamp(min=0), number + torch.minimum(count, torch.full_like(count, delay))
    place = torch.arange(total, device=x.device) - (total - reached)[:, None]
    logits = model.answered(model.norm(_at(x, place.clamp(min=0))))
    return torch.where((place >= 0)[..., None], logits, 0.0)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """x (B, N, width) at places (B, M)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
