"""The literal form of retention policies: the notes on every entry as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mnemos.memory.retain import (
    HeavyHitters,
    KeyDifference,
    KeyNorm,
    LazyEviction,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    Newest,
    Policy,
    Sampled,
)

Notes = dict[str, float]


class Literal(NamedTuple):
    """start(policy, now): the notes on a new entry. look(policy, notes, weight, now): after it was read with that
    weight. worth(policy, notes, position, now, keys), keys by position, turned."""

    start: Callable[[Any, int], Notes]
    look: Callable[[Any, Notes, float, int], Notes]
    worth: Callable[[Any, Notes, int, int, dict[int, Tensor]], float]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _lazy_look(policy: LazyEviction, notes: Notes, weight: float, now: int) -> Notes:
    if weight <= policy.threshold:
        return notes
    return {"last": now, "gap": max(notes["gap"], now - notes["last"])}


def _lazy_worth(policy: LazyEviction, notes: Notes, position: int, now: int, keys: dict[int, Tensor]) -> float:
    silence, gap = now - notes["last"], notes["gap"]
    if gap == 0:
        return 1.0 if silence == 0 else 0.0
    worth = 2 * _sigmoid(-silence / gap)
    if policy.preference == "printed":
        worth += 2 * _sigmoid(-1 / gap)
    if policy.preference == "described":
        worth += 2 * _sigmoid(-gap / policy.period)
    return worth


def _keeps_no_notes(policy: Policy, now: int) -> Notes:
    return {}


def _learns_nothing(policy: Policy, notes: Notes, weight: float, now: int) -> Notes:
    return notes


def _difference(policy: KeyDifference, notes: Notes, position: int, now: int, keys: dict[int, Tensor]) -> float:
    def unit(key: Tensor) -> Tensor:
        length = float(key.square().sum().sqrt())
        return key / length if length else key

    anchor = unit(torch.stack([unit(key) for key in keys.values()]).mean(0))
    return -round(4096 * float(unit(keys[position]) @ anchor))


def _hash(policy: Sampled, notes: Notes, position: int, now: int, keys: dict[int, Tensor]) -> float:
    x = (position + policy.seed + 1) * 0x9E3779B1 % 2**32
    x = (x ^ x // 2**15) * 0x85EBCA6B % 2**32
    x = (x ^ x // 2**15) * 0x42B2AE35 % 2**32
    return float(x ^ x // 2**16)


POLICIES: dict[type, Literal] = {
    KeyDifference: Literal(_keeps_no_notes, _learns_nothing, _difference),
    KeyNorm: Literal(
        _keeps_no_notes,
        _learns_nothing,
        lambda policy, notes, position, now, keys: -round(4096 * math.log2(float(keys[position].norm()) or 1e-30)),
    ),
    LeastFrequentlyAttended: Literal(
        start=lambda policy, now: {"times": 0.0},
        look=lambda policy, notes, weight, now: {"times": notes["times"] + (1 if weight > policy.threshold else 0)},
        worth=lambda policy, notes, position, now, keys: notes["times"],
    ),
    LeastRecentlyAttended: Literal(
        start=lambda policy, now: {"last": float(now)},
        look=lambda policy, notes, weight, now: {"last": float(now)} if weight > policy.threshold else notes,
        worth=lambda policy, notes, position, now, keys: notes["last"],
    ),
    Newest: Literal(_keeps_no_notes, _learns_nothing, lambda policy, notes, position, now, keys: float(position)),
    Sampled: Literal(_keeps_no_notes, _learns_nothing, _hash),
    HeavyHitters: Literal(
        start=lambda policy, now: {"sum": 0.0, "reads": 0.0} if policy.mean else {"sum": 0.0},
        look=lambda policy, notes, weight, now: {
            name: policy.decay * note + (weight if name == "sum" else 1.0) for name, note in notes.items()
        },
        worth=lambda policy, notes, position, now, keys: notes["sum"] / (max(notes["reads"], 1) if policy.mean else 1),
    ),
    LazyEviction: Literal(
        start=lambda policy, now: {"last": float(now), "gap": 0.0}, look=_lazy_look, worth=_lazy_worth
    ),
}


def survivors(policy: Policy, notes: dict[int, Notes], keys: dict[int, Tensor], now: int) -> list[int]:
    """The positions that are left of those in `notes` after the token at position `now` was written."""
    kept = sorted(notes)
    if (now + 1) % policy.period:
        return kept
    literal = POLICIES[type(policy)]
    open_to = [p for p in kept if p >= policy.sinks and p <= now - policy.recent]
    going = sorted(open_to, key=lambda p: (literal.worth(policy, notes[p], p, now, keys), p))
    dropped = set(going[: max(len(kept) - policy.budget, 0)])
    return [p for p in kept if p not in dropped]


def looked_at(policy: Policy, notes: dict[int, Notes], weights: dict[int, list[Tensor]], now: int) -> dict[int, Notes]:
    """The notes after a token has read; weights: those of all query heads of the group, by position."""
    look = POLICIES[type(policy)].look
    merge = torch.amax if policy.group == "max" else torch.mean
    return {
        p: look(policy, of_entry, float(merge(torch.stack(weights[p]))) if p in weights else 0.0, now)
        for p, of_entry in notes.items()
    }
