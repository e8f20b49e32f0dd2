"""A mean with its 95 % confidence interval."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from mnemos.errors import DataError

_NORMAL = 1.959964  # the two-sided 95 % point of the normal distribution
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764)  # the same of Student's t at 1, 2, 3 and 4 degrees of freedom


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` separate windows of text, with its 95 % interval, `low` to `high`."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def estimate(values: Tensor) -> Estimate:
    """The mean of `values` (count,), one per window, with Student's interval.

    Raises:
        DataError: fewer than two windows, which say nothing about their spread.
    """
    count = values.numel()
    if count < 2:
        raise DataError(
            f"An interval needs at least 2 windows of held-out text; there is {count}. "
            "Give more text, more --tokens or a shorter --length."
        )
    mean = values.double().mean().item()
    half = student(count - 1) * values.double().std().item() / sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def student(freedom: int) -> float:
    """The two-sided 95 % point of Student's t (above 4 degrees of freedom by Cornish-Fisher expansion)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _NORMAL
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
