"""The literal form of each retention that scales or erases; others are taken at their own word."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.retention import DPLR, Decay, Keep, Retention


def retained(retention: Retention, state: Tensor, now: Controls) -> Tensor:
    """The state (B, H, out, in) after forgetting, for the controls of one token (B, H, ...)."""
    if isinstance(retention, Keep):
        return state
    if isinstance(retention, DPLR):
        return state @ _transition(now, state.shape[-1])
    if not isinstance(retention, Decay):
        return retention.retain(state, now)
    if retention.rotate is not None:
        return _turned(retention, state, now)
    decay = now["decay"]
    if retention.per == "head":
        return decay[:, :, None, None] * state
    if retention.per == "value":
        return torch.diag_embed(decay) @ state
    if retention.per == "outer":
        return torch.diag_embed(now["value_decay"]) @ state @ torch.diag_embed(decay)
    # hidden unit i of the input side belongs to channel i // (in / K).
    channel = torch.arange(state.shape[-1], device=state.device) * decay.shape[-1] // state.shape[-1]
    return state * decay[:, :, None, channel]


def _turned(retention: Decay, state: Tensor, now: Controls) -> Tensor:
    """Complex decay: the pairs of one side as complex numbers, times a complex number each."""
    decay, angle = now["decay"], now["angle"]
    factor = torch.polar(torch.ones_like(angle), angle)
    if retention.per == "pair":
        factor = decay * factor  # torch.polar itself has no gradient where its first argument is zero
    elif retention.per == "head":
        state = decay[:, :, None, None] * state
    else:  # a factor for each channel of the side that does not turn
        state = torch.einsum("bho,bhoi->bhoi" if retention.per == "value" else "bhi,bhoi->bhoi", decay, state)
    if retention.rotate == "key":
        real, imaginary = state.chunk(2, 3)
        turned = torch.complex(real, imaginary) * factor[:, :, None, :]
        return torch.cat([turned.real, turned.imag], 3)
    real, imaginary = state.chunk(2, 2)
    turned = torch.complex(real, imaginary) * factor[:, :, :, None]
    return torch.cat([turned.real, turned.imag], 2)


def _transition(now: Controls, size: int) -> Tensor:
    """Diag(decay) - removal replacement^T as a matrix (B, H, size, size), a channel's share spread over `size` / K."""
    decay, removal, replacement = (now[name] for name in ("decay", "removal", "replacement"))
    spread = size // decay.shape[-1]
    channel = torch.arange(size, device=decay.device) // spread
    outer = removal[:, :, channel, None] * replacement[:, :, None, channel] / spread
    return torch.diag_embed(decay[:, :, channel]) - outer
