"""What the literal forms of read rules share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import Read

Reads = Callable[[Any, Tensor, Tensor, Tensor, Tensor, Controls], tuple[Tensor, Tensor]]
"""(rule, q (K,), keys (N, K), values (N, V), lag (N,), controls of the query) -> answer (V,) and weights (N,). There
is at least one entry."""


def scored(rule: Read, q: Tensor, keys: Tensor) -> Tensor:
    """scale q . k_j (N,)."""
    scale = 1 / math.sqrt(len(q)) if rule.scale is None else rule.scale
    return scale * (keys * q).sum(-1)
