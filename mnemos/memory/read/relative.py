"""Softmax attention with a bias for every distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read
from mnemos.memory.read.softmax import check_scores


@dataclass(frozen=True)
class Relative(Read):
    """o = sum_j softmax_j(scale q . k_j + bias_lag(j)) v_j, where lag is how many tokens ago entry j was written and
    the query brings its own biases for lags 0 to length - 1 along: the control `bias`, one number a head and lag.

    A layer makes them of the query by a table of positions E, bias_lag = scale q . E_lag (Music Transformer, arXiv
    1809.04281, whose skewing is this layout), or of anything else. Entries from further away get the bias 0 ("zero", as
    in the published code) or the one of the last lag ("clip", as in Shaw et al., arXiv 1803.02155).
    """

    length: int = 512
    beyond: Literal["zero", "clip"] = "zero"
    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "kept"
    mask: Mask | None = None

    def __post_init__(self) -> None:
        check_scores(self)
        expect(self.length >= 1, f"Relative(length=) is a number of distances of at least 1; got {self.length}.")
        expect(self.beyond in ("zero", "clip"), f'Relative(beyond=) is "zero" or "clip"; got {self.beyond!r}.')

    @property
    def controls(self) -> tuple[Control, ...]:
        meaning = "what is added to the score of a lag"
        return (Control("bias", "count", -math.inf, math.inf, meaning, self.length),)

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        scores = super().score(q, keys, lag, controls)
        bias = controls["bias"].to(scores.dtype)
        if self.beyond == "zero":
            bias = F.pad(bias, (0, 1))  # one lag more, for all that are further away
        at = lag.clamp(0, bias.shape[-1] - 1).expand(*bias.shape[:-1], lag.shape[-1])
        return scores + bias.gather(-1, at)
