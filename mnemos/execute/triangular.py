"""The inverse of unit lower triangular matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_lower_inverse(lower: Tensor) -> Tensor:
    """(I + L)^-1 for L (..., C, C), of which only what lies below the diagonal is looked at.

    Forward substitution, whose rounding errors stay small where the finite series (I - L)(I + L^2)... cancels: with
    equal keys its powers grow like binomials. For C of 16 and 32 it was also the faster of the two on a CPU.
    """
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True).contiguous()
