"""Softmax attention that may answer nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read
from mnemos.memory.read.softmax import check_scores


@dataclass(frozen=True)
class SoftmaxOne(Read):
    """o = sum_j p_j v_j,   p_j = exp(s_j) / (1 + sum_i exp(s_i)),   s_j = scale q . k_j

    The softmax with one more entry of score 0 and value 0 (OutEffHop, arXiv 2404.03828): a head that finds nothing
    answers zero, and needs no extreme scores for it. The answer is that of softmax attention times sigmoid(log sum_i
    exp(s_i)); a read without entries answers zero. Options as in Softmax.
    """

    scale: float | None = None
    rotary: float | None = None
    positions: Literal["kept", "original"] = "kept"
    mask: Mask | None = None

    def __post_init__(self) -> None:
        check_scores(self)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        return torch.softmax(F.pad(scores.masked_fill(~seen, -torch.inf), (1, 0)), -1)[..., 1:]
