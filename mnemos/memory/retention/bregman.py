"""Weights kept inside bounds by the map that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retention.mirror import Mirror


@dataclass(frozen=True)
class Bregman(Mirror):
    """A_t = decay_t A_t-1 + step_t, W_t = (F')^-1 (A_t) entry by entry: mirror descent near W_t-1 in the Bregman
    divergence of sum F(W) (arXiv 2504.13173, section 5.2).

        map="sigmoid"   W in (0, 1):    F' = logit, so that F is minus the entropy of a coin
        map="tanh"      W in (-1, 1):   F' = artanh
        map="exp"       W > 0:          F' = log, unnormalised exponentiated gradient; A counts up to 15 only

    The initial weights are taken for A_0. decay: a control per token and head, or False for none.
    """

    map: Literal["sigmoid", "tanh", "exp"] = "tanh"
    decay: bool = True

    def __post_init__(self) -> None:
        known = ("sigmoid", "tanh", "exp")
        expect(self.map in known, f"Bregman(map=) is one of {known}; got {self.map!r}.")

    def link(self, state: Tensor) -> Tensor:
        if self.map == "exp":
            return state.clamp(max=15.0).exp()
        return torch.sigmoid(state) if self.map == "sigmoid" else torch.tanh(state)
