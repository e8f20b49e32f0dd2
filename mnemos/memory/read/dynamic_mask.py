"""Softmax attention with a learned preference for each entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read, masked_softmax
from mnemos.memory.read.softmax import check_scores


@dataclass(frozen=True)
class DynamicMask(Read):
    """Dynamic mask attention (arXiv 2412.11834): o = sum_j softmax_j(scale q . k_j + m_j) v_j, where m_j, one number a
    head, is kept with the entry: the control `preference` of its token.

    keep: a query looks only at the so many entries that have the largest m of those it may see, of equal ones the
    newest; None for all.
    scale, rotary, positions, mask: as in `Softmax`.
    """

    keep: int | None = None
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "kept"
    mask: Mask | None = None

    def __post_init__(self) -> None:
        check_scores(self)
        expect(
            self.keep is None or self.keep >= 1,
            f"DynamicMask(keep=) is a number of entries of at least 1, or None for all; got {self.keep}.",
        )

    @property
    def stored(self) -> tuple[Control, ...]:
        return (Control("preference", "head", -math.inf, math.inf, "what is added to every score of an entry"),)

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        values, preference = values[..., :-1], values[..., None, :, -1]
        scores = self.score(q, keys, lag, controls) + preference
        if self.keep is not None and self.keep < scores.shape[-1]:
            newest_first = lag[..., :1, :].argsort(-1).expand_as(preference)
            ranked = preference.detach().gather(-1, newest_first).argsort(dim=-1, descending=True, stable=True)
            order = newest_first.gather(-1, ranked)
            place = order.argsort(-1)  # 0 for the entry with the largest m
            place = torch.where(seen, place, place.shape[-1])
            best = place.topk(self.keep, -1, largest=False).indices
            seen = seen & torch.zeros_like(place, dtype=torch.bool).scatter(-1, best, True)
        weights = masked_softmax(scores, seen)
        return weights @ values, weights
