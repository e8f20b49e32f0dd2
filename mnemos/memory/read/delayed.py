"""Softmax attention whose queries have waited, so that they see what came after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control
from mnemos.memory.read.base import Read, highest, masked_softmax
from mnemos.memory.read.softmax import check_scores
from mnemos.memory.rotary import rotate_each


@dataclass(frozen=True)
class Delayed(Read):
    """o_t = a_t sum_j softmax_j(scale q . k_j) v_j with q = q_{t-delay}: a query is answered `delay` tokens after its
    own, when those are in the memory too (Attendre, arXiv 2401.04881).

    What is asked with at token t must be the query of token t - delay; who keeps the queries until then is a layer
    (`WaitToAttend`). a_t is the control "asks": 1, or 0 at a token at which none is ready. Then nothing is read: the
    answer is 0, and a policy sees no weight.

    top: only the so many entries with the highest scores are read (of equal ones, to six decimals, the newest), for
    each query and head by itself; None for all. scale, rotary, positions: as in `Softmax`; the query stands `delay`
    positions before the newest entry's token.
    """

    delay: int = 0
    top: int | None = None
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "original"

    def __post_init__(self) -> None:
        check_scores(self)
        expect(self.delay >= 0, f"Delayed(delay=) is a number of tokens, at least 0; got {self.delay}.")
        expect(
            self.top is None or self.top >= 1,
            f"Delayed(top=) is a number of entries of at least 1, or None for all; got {self.top}.",
        )

    @property
    def controls(self) -> tuple[Control, ...]:
        return (Control("asks", "head", 0.0, 1.0, "1 where a query is answered, 0 where none is ready"),)

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        if self.rotary is not None:  # it comes turned to the newest position
            q = rotate_each(q, torch.tensor(-self.delay, device=q.device), self.rotary)
        return super().score(q, keys, lag, controls)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        if self.top is not None:
            seen = seen & highest(scores, seen, lag, self.top)
        return masked_softmax(scores, seen) * controls["asks"].to(scores.dtype)[..., None]
