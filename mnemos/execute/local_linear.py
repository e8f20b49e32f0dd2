"""Key-value memories read by local linear regression, in blocks of queries."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.attention import FullAttention
from mnemos.execute.request import Request
from mnemos.memory import Everything, KVMemory, LocalLinear

BLOCK = 64


class LocalLinearAttention(FullAttention):
    """Every token's regression over all entries before it: weights, covariance and a small system for each query."""

    name = "local linear attention"
    summary = "softmax weights and a key_dim x key_dim system a query, block by block; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if not isinstance(memory, KVMemory) or not isinstance(memory.read_rule, LocalLinear):
            return "it runs memories that read by local linear regression (LocalLinear)"
        return None if isinstance(memory.retain, Everything) else "the memory does not keep everything"

    def flops(self, memory: Any, request: Request) -> float:
        tokens = request.batch * request.heads * request.length
        key = request.key_dim
        return float(tokens * (request.length * (key * key + 2 * key + request.value_dim) + key**3 / 3))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, memory: KVMemory, seen: Tensor | None) -> Tensor:
        q, keys, values = (x.transpose(1, 2) for x in (q.to(keys.dtype), keys, values))
        group = q.shape[1] // keys.shape[1]
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        length = q.shape[2]
        if seen is None:
            seen = torch.ones(length, keys.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
        else:  # a row that sees nothing (padding) must not become NaN, nor its gradient
            seen = seen | ~seen.any(-1, keepdim=True)
        scale = memory.read_rule.scale or 1 / math.sqrt(q.shape[-1])
        wide = keys.dtype if keys.dtype == torch.float64 else torch.float32
        outputs = []
        for start in range(0, length, BLOCK):
            rows = slice(start, start + BLOCK)
            scores = (scale * (q[:, :, rows] @ keys.mT)).masked_fill(~seen[:, :, rows], -torch.inf)
            weights = torch.softmax(scores.to(wide), -1)
            inputs = (x.to(wide) for x in (q[:, :, rows], keys, values))
            outputs.append(memory.read_rule.answer(weights, *inputs))
        return torch.cat(outputs, 2).transpose(1, 2).to(values.dtype)
