"""Rotary positions: rotate pairs of channels by an angle that grows with the position (arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.errors import expect


def check_rotary(base: float | None, key_dim: int) -> None:
    """Raises InvalidValue for keys of odd width where there are rotary positions."""
    expect(
        base is None or key_dim % 2 == 0,
        f"rotary positions turn pairs of channels, so key_dim must be even; got {key_dim}.",
    )


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x with channels (i, i + K/2) turned by positions * base^(-2i/K).

    x (..., T, H, K) with even K, positions (..., T) whole numbers. The angles are computed in float64: at a position
    of 200,000 a float32 angle is off by 0.01, and streams are meant to be longer than that.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    return turn(x, positions.double()[..., None] * frequencies)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., T, H, K) with channels (i, i + K/2) turned by angles (..., T, K/2)."""
    return turn_pairs(x, angles[..., None, :])


def turn_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """x (..., K) with channels (i, i + K/2) turned by angles (..., K/2) of as many axes."""
    half = x.shape[-1] // 2
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def rotate_each(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """x (..., K), each of its vectors turned by its own of positions (...), which may be broadcast; see `rotate`."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    return turn_pairs(x, positions.double()[..., None] * frequencies)
