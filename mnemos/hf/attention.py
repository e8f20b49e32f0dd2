"""The attention function that models call by the name "mnemos"."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from mnemos.errors import InvalidValue
from mnemos.hf.cache_layer import MemoryCacheLayer

NAME = "mnemos"


def register() -> None:
    """Make `model.set_attn_implementation("mnemos")` known to transformers."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, padding)


def padding(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask (B, tokens so far), False for padding. Nothing else is decided before the cache knows what it keeps."""
    return attention_mask


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention of query (B, heads, T, K): (B, T, heads, V). Where key and value (B, H, T, .) come from
    one of our caches, what its memory answers; else over all that there is, the queries being the last T of them.

    Raises InvalidValue for what it does not do: windows, soft caps, learned sinks, added biases, masks of four axes.
    """
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise InvalidValue(f'the attention "mnemos" is plain causal softmax attention; the model asks for {name}=.')
    if attention_mask is not None and attention_mask.ndim != 2:
        raise InvalidValue(
            'the attention "mnemos" takes a mask (batch, tokens) that marks padding; '
            f"got one of shape {tuple(attention_mask.shape)}."
        )
    layer = MemoryCacheLayer.of(key)
    if layer is not None:
        return layer.attend(query, key, value, attention_mask, scaling, kwargs.get("position_ids")), None
    number, entries = query.shape[2], key.shape[2]
    seen = torch.ones(number, entries, dtype=torch.bool, device=query.device).tril(entries - number)
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, :].bool()
        seen = seen | ~seen.any(-1, keepdim=True)  # padding must not become NaN
    grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(query, key, value, seen, dropout, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous(), None
