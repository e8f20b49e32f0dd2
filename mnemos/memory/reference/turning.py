"""Rotary positions by complex numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def turned(x: Tensor, position: int, base: float | None) -> Tensor:
    """x (K,), channels i and i + K/2 as a complex number, times exp(1j position base^(-2i/K)); x itself for no base."""
    if base is None:
        return x
    half = len(x) // 2
    angle = position * base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1)
