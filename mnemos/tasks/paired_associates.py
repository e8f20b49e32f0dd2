"""Paired associative inference: A goes with B and B with C; what goes with A?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mnemos.errors import expect


class Associations(NamedTuple):
    """facts (B, sequences * (length - 1), 2, width), the pairs of neighbours in a random order; question (B, 3, width),
    a cue and two candidates in a random order; target (B,), which of the two, 0 or 1, is of the cue's sequence; label
    (B,), which row of the bank this match is; distance (B,), how many steps it is away."""

    facts: Tensor
    question: Tensor
    target: Tensor
    label: Tensor
    distance: Tensor


def paired_associates(
    number: int, bank: Tensor, *, length: int = 3, sequences: int = 16, generator: torch.Generator | None = None
) -> Associations:
    """Questions of the task on which MEMO was tested (arXiv 2001.10913), about items of a bank (M, width).

    Every row has sequences of its own, of `length` items, all different. The cue is the first item of a sequence or a
    later one, the match any item after it, direct neighbours and others equally often; the lure stands where the match
    does in another sequence. The two items of a fact come in a random order. Raises InvalidValue for sizes that cannot
    be.
    """
    for name, value, least in (("number", number, 1), ("length", length, 2), ("sequences", sequences, 2)):
        expect(value >= least, f"paired_associates({name}=) must be at least {least}; got {value!r}.")
    expect(
        bank.ndim == 2 and len(bank) >= sequences * length,
        f"paired_associates(bank=) holds at least sequences * length = {sequences * length} items, one a row; got "
        f"shape {tuple(bank.shape)}.",
    )

    def below(limit: Tensor) -> Tensor:
        return (torch.rand(limit.shape, generator=generator) * limit).long().clamp(max=limit - 1)

    rows = torch.arange(number)
    drawn = torch.rand(number, len(bank), generator=generator).argsort(1)[:, : sequences * length]
    drawn = drawn.unflatten(1, (sequences, length))
    items = bank[drawn]
    pairs = torch.stack([items[:, :, :-1], items[:, :, 1:]], 3).flatten(1, 2)
    turned = torch.rand(pairs.shape[:2], generator=generator) < 0.5
    pairs = torch.where(turned[:, :, None, None], pairs.flip(2), pairs)
    order = torch.rand(pairs.shape[:2], generator=generator).argsort(1)
    facts = pairs[rows[:, None], order]

    direct = torch.rand(number, generator=generator) < 0.5
    further = 2 + below(torch.full((number,), max(length - 2, 1)))
    distance = torch.where(direct | torch.tensor(length == 2), 1, further)
    cue = below(length - distance)
    sequence = below(torch.full((number,), sequences))
    other = (sequence + 1 + below(torch.full((number,), sequences - 1))) % sequences
    label = drawn[rows, sequence, cue + distance]
    match, lure = items[rows, sequence, cue + distance], items[rows, other, cue + distance]
    target = below(torch.full((number,), 2))
    second = (target == 1)[:, None]
    candidates = [torch.where(second, lure, match), torch.where(second, match, lure)]
    return Associations(facts, torch.stack([items[rows, sequence, cue], *candidates], 1), target, label, distance)
