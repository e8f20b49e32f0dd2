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


def segment_tokens(rows: int, size: int) -> int:
    """How many tokens of `rows` rows and heads are worked on at a time, a multiple of the chunk `size`.

    Few enough for the matrices of a segment to stay in a core's cache (products of matrices that do not ran 1.6 times
    slower), enough to make the cost of a call small beside its work.
    """
    return size * max(1, 32 // max(rows, 1))


def lay_out(x: Tensor, size: int) -> Tensor:
    """(B, T, H, ...) -> (N, B * H, size, ...), chunks outermost, in one piece; T is a multiple of the chunk size."""
    return x.unflatten(1, (-1, size)).movedim(1, 0).movedim(3, 2).flatten(1, 2).contiguous()


def lay_back(x: Tensor, batch: int) -> Tensor:
    """(N, B * H, C, V) -> (B, T, H, V)."""
    return x.unflatten(1, (batch, -1)).movedim(2, 3).movedim(0, 1).flatten(1, 2)


def carried(start: Tensor, factor: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """X_n+1 = factor_n X_n + added_n, factor (B, H, N): all X_n before their chunks (B, H, N, ...), and the last."""
    befores, now = [], start
    for scale, new in zip(factor.unbind(2), added.unbind(2), strict=True):
        befores.append(now)
        now = scale[..., None, None] * now + new
    return torch.stack(befores, 2), now
