"""Sparse weights: those that do not earn their keep go to exactly zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.retention.base import Retention


@dataclass(frozen=True)
class ElasticNet(Retention):
    """W_t = soft(decay_t W_t-1 + step_t, threshold_t), soft(z, c) = sign(z) max(|z| - c, 0): the proximal step for

        |W - W_t-1|^2 / (2 eta) + |W|^2 / (2 beta) + |W|_1 / alpha       (arXiv 2504.13173, eq. 22)

    with decay = beta / (beta + eta), the learner's rate = eta decay and threshold = eta decay / alpha. Decay, rate and
    threshold are free of each other here.

    threshold >= 0, or None for a control per token and head, in [0, inf); 0 is Decay(per="head").
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        expect(
            self.threshold is None or (math.isfinite(self.threshold) and self.threshold >= 0),
            f"ElasticNet(threshold=) is a number of at least 0, or None for a control per token; got {self.threshold}.",
        )

    @property
    def controls(self) -> tuple[Control, ...]:
        decay = Control("decay", "head", 0.0, 1.0, "retention factor that multiplies the state; 0 erases it")
        threshold = Control("threshold", "head", 0.0, math.inf, "by how much every weight is drawn towards zero")
        return (decay, threshold) if self.threshold is None else (decay,)

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        factor = controls["decay"][..., None, None]
        return state.mul_(factor) if in_place else state * factor

    def combine(self, retained: Tensor, step: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        threshold = controls["threshold"][..., None, None] if self.threshold is None else self.threshold
        return soft_threshold(retained + step, threshold)


def soft_threshold(z: Tensor, threshold: Tensor | float) -> Tensor:
    """sign(z) max(|z| - threshold, 0)."""
    return torch.where(z.abs() > threshold, z - z.sign() * threshold, 0.0)
