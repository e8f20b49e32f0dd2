"""Cutting a sequence into chunks and putting it together again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.memory import Controls


def cut(x: Tensor, size: int) -> Tensor:
    """(B, T, H, ...) -> (B, H, N, size, ...), filled up with zeros at the end."""
    missing = -x.shape[1] % size
    if missing:
        x = F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing])
    return x.unflatten(1, (-1, size)).movedim(3, 1)


def join(x: Tensor, length: int) -> Tensor:
    """(B, H, N, C, V) -> (B, T, H, V)."""
    return x.movedim(1, 3).flatten(1, 2)[:, :length]


def cut_controls(controls: Controls, size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every control (B, T, H) or (B, T, H, K), cut like the tokens."""
    return {name: cut(value.to(dtype), size) for name, value in controls.items()}


def live_tokens(length: int, lengths: Tensor | None, size: int, device: torch.device) -> Tensor | None:
    """(B or 1, 1, N, size) bool: which tokens of the cut sequence are real; None if all are."""
    if lengths is None and length % size == 0:
        return None
    padded = length + -length % size
    position = torch.arange(padded, device=device)
    end = torch.tensor([length], device=device) if lengths is None else lengths
    return (position < end[:, None]).view(-1, 1, padded // size, size)
