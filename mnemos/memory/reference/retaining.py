"""The literal form of each retention that scales or erases; others are taken at their own word."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.protocol import Controls
from mnemos.memory.retention import Decay, Keep, Retention


def retained(retention: Retention, state: Tensor, now: Controls) -> Tensor:
    """The state (B, H, out, in) after forgetting, for the controls of one token (B, H, ...)."""
    if isinstance(retention, Keep):
        return state
    if not isinstance(retention, Decay):
        return retention.retain(state, now)
    decay = now["decay"]
    if retention.per == "head":
        return decay[:, :, None, None] * state
    # hidden unit i of the input side belongs to channel i // (in / K).
    channel = torch.arange(state.shape[-1], device=state.device) * decay.shape[-1] // state.shape[-1]
    return state * decay[:, :, None, channel]
