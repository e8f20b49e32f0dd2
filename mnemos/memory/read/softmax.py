"""The average of the values, weighted by the softmax of the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnemos.errors import expect, expect_kind
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read


@dataclass(frozen=True)
class Softmax(Read):
    """o = sum_j softmax_j(scale q . k_j) v_j over the kept entries that the mask lets through.

    scale: a number, or None for 1/sqrt(key_dim). rotary: the base of rotary positions (10000 is customary; key_dim
    must be even), or None for no positions. positions: what they count, "kept" the entries that are kept, so that no
    distance ever exceeds what training has seen, or "original" all tokens of the stream. mask: PowersOfTwo(),
    Dilated() ..., by original positions; None to look at every entry.
    """

    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "kept"
    mask: Mask | None = None
    plain = True

    def __post_init__(self) -> None:
        check_scores(self)


def check_scores(read: Read, *further: str) -> None:
    """Raises for options of scores and positions that cannot be. further: names for `positions` beside the common."""
    name = type(read).__name__
    expect(read.scale is None or read.scale > 0, f"{name}(scale=) must be positive; got {read.scale}.")
    expect(read.rotary is None or read.rotary > 1, f"{name}(rotary=) is a base above 1; got {read.rotary}.")
    known = ("kept", "original", *further)
    named = ", ".join(f'"{position}"' for position in known[:-1])
    expect(
        read.positions in known,
        f'{name}(positions=) is {named} or "{known[-1]}"; got {read.positions!r}.',
    )
    if read.mask is not None:
        expect_kind(read.mask, Mask, "mask", "PowersOfTwo(block=64)")
