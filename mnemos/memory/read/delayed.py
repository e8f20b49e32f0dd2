"""Softmax attention whose queries have waited, so that they see what came after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mnemos.errors import expect, expect_kind
from mnemos.memory.control import Control
from mnemos.memory.mask import TwoSided
from mnemos.memory.read.base import Read, highest, masked_softmax
from mnemos.memory.read.softmax import check_scores
from mnemos.memory.rotary import rotate_each


@dataclass(frozen=True)
class Delayed(Read):
    """o_t = sum_j softmax_j(scale q . k_j) v_j with q = q_{t-w}: a query is answered w tokens after its own, when those
    are in the memory too (Attendre, arXiv 2401.04881).

    What is asked with at token t must be the query of token t - w; who keeps the queries until then is a layer
    (`WaitToAttend`). w is the control "waited", a whole number: `delay`, or less for those that still wait when the
    stream ends, or -1 where none asks. Then nothing is read: the answer is 0, and a policy sees no weight.

    top: only the so many entries with the highest scores are read (of equal ones, to six decimals, the newest), for
    each query and head by itself; None for all. scale, rotary, positions: as in `Softmax`; the query stands w
    positions before the newest entry's token. around: which entries a query looks at by the position of its own token
    and of the newest one, as `NeighborhoodAround(7)`; None for all. `delay` must be at least its own, and the memory
    must still have what it looks at: `Window(2 * delay + 1)` has.
    """

    delay: int = 0
    top: int | None = None
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "original"
    around: TwoSided | None = None
    numbered = True

    def __post_init__(self) -> None:
        check_scores(self)
        expect(self.delay >= 0, f"Delayed(delay=) is a number of tokens, at least 0; got {self.delay}.")
        expect(
            self.top is None or self.top >= 1,
            f"Delayed(top=) is a number of entries of at least 1, or None for all; got {self.top}.",
        )
        if self.around is not None:
            expect_kind(self.around, TwoSided, "around", "NeighborhoodAround(7)")
            least = self.around.delay
            expect(
                self.delay >= least,
                f"Delayed(around={self.around}) looks at up to {least} tokens after the query's own, so delay= is at "
                f"least {least}; got {self.delay}.",
            )

    @property
    def controls(self) -> tuple[Control, ...]:
        return (Control("waited", "head", -1.0, self.delay, "how many tokens ago the query's own was; -1: none asks"),)

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        if self.rotary is not None:  # it comes turned to the newest position
            q = rotate_each(q, -controls["waited"].long(), self.rotary)
        return super().score(q, keys, lag, controls)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        waited = controls["waited"].long()[..., None]
        seen = seen & (waited >= 0)
        if self.around is not None:
            newest = controls["position"][..., None]
            seen = seen & self.around.sees(newest - waited, newest - lag, newest)
        if self.top is not None:
            seen = seen & highest(scores, seen, lag, self.top)
        return masked_softmax(scores, seen)
