"""How the tests call models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tokens(batch: int, time: int) -> Tensor:
    return torch.randint(2, 50, (batch, time))


def generated(model: Any, ids: Tensor, cache: Any, number: int = 12, **options: Any) -> Tensor:
    options.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, past_key_values=cache, max_new_tokens=number, do_sample=False, **options)


def logits(model: Any, ids: Tensor, cache: Any, cuts: list[int], mask: Tensor | None = None) -> Tensor:
    """Those of all tokens, fed in such pieces."""
    found, start = [], 0
    for size in cuts:
        now = slice(start, start + size)
        further: dict[str, Any] = {}
        if mask is not None:
            further["attention_mask"] = mask[:, : now.stop]
            further["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, now]
        with torch.no_grad():
            found.append(model(ids[:, now], past_key_values=cache, **further).logits)
        start += size
    assert start == ids.shape[1]
    return torch.cat(found, 1)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> None:
    """Of logits up to 10; the models' norms compute in float32."""
    assert one.shape == other.shape and float((one - other).abs().max()) <= tolerance
