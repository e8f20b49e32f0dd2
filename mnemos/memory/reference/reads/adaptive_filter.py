"""The most likely state behind noisy observations."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import AdaptiveFilter


def adaptive_filter(
    rule: AdaptiveFilter, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """The observations carried to now, the density of a Student t distribution, the mean."""
    damping, process, source, anchor, freedom, sharpness = (
        controls[name] for name in ("damping", "process", "source", "anchor", "freedom", "sharpness")
    )
    shrunk = torch.exp(-damping * lag)
    gained = process * (1 - shrunk**2) / (2 * damping) if damping.any() else process * lag
    variance = gained + source * shrunk**2 + anchor
    nu, size = freedom * len(q), len(q)
    surprise = torch.log(1 + ((q - shrunk[:, None] * keys) ** 2).sum(1) / (nu * variance))
    weights = torch.softmax(sharpness * (torch.log(1 / variance) - (nu + size) / size * surprise), 0)
    return weights @ (shrunk[:, None] * values), weights
