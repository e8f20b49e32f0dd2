"""Several readings, one behind the other."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Hops


def hops(rule: Hops, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
    from mnemos.memory.reference.reads import READS  # it is in there itself

    u, looked = q, torch.zeros_like(keys[:, 0])
    for _ in range(rule.hops):
        found, weights = READS[type(rule.read)](rule.read, u, keys, values, lag, controls)
        u, looked = torch.diag(controls["carry"]) @ u + found, looked + weights / rule.hops
    return u, looked
