"""Softmax attention whose scores are a network's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect, expect_kind
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class MLPScores(Read):
    """o = sum_j softmax_j(s_j) v_j,   s_j = w . f(W f(q + k_j + b) + c)   (neural attention, arXiv 2502.17206)

    A network's first layer on [q; k_j] is a sum of one on q and one on k_j: q and k are these halves, each computed
    once a token, and what is left for every pair is the activation f and two small layers. Their numbers come with the
    query, as controls: `first_bias` b (K), `second_weight` W (hidden x K, row by row), `second_bias` c (hidden) and
    `third_weight` w (hidden). A layer learns one of each. A bias of the last layer would change nothing.

    hidden: width of the second layer. activation: "relu" or "gelu". mask: as in Softmax.
    """

    hidden: int = 4
    activation: Literal["relu", "gelu"] = "relu"
    mask: Mask | None = None

    def __post_init__(self) -> None:
        expect(self.hidden >= 1, f"MLPScores(hidden=) is a width of at least 1; got {self.hidden}.")
        expect(
            self.activation in ACTIVATIONS,
            f'MLPScores(activation=) is "relu" or "gelu"; got {self.activation!r}.',
        )
        if self.mask is not None:
            expect_kind(self.mask, Mask, "mask", "PowersOfTwo(block=64)")

    @property
    def controls(self) -> tuple[Control, ...]:
        low, high = -math.inf, math.inf
        return (
            Control("first_bias", "channel", low, high, "bias of the scoring network's first layer"),
            Control("second_weight", "channel", low, high, "matrix of its second layer", self.hidden),
            Control("second_bias", "count", low, high, "bias of its second layer", self.hidden),
            Control("third_weight", "count", low, high, "its last layer", self.hidden),
        )

    def pair_flops(self, key_dim: int, value_dim: int) -> float:
        return 2.0 * (key_dim * (self.hidden + 1) + self.hidden + value_dim)

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        f, mine = ACTIVATIONS[self.activation], {name: value.to(q.dtype) for name, value in controls.items()}
        first = f((q + mine["first_bias"])[..., :, None, :] + keys[..., None, :, :])  # (B, H, n, N, K)
        matrix = mine["second_weight"].unflatten(-1, (self.hidden, -1))
        second = f(first @ matrix.mT + mine["second_bias"][..., None, :])
        return (second @ mine["third_weight"][..., None])[..., 0]
