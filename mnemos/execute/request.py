"""What is asked of an executor: how much, of what size, where."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mnemos.memory import AnyMemory


class Request(NamedTuple):
    """A run to be planned. `training`: gradients are wanted."""

    batch: int
    length: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: str
    training: bool

    @staticmethod
    def of(q: Tensor, k: Tensor, v: Tensor, training: bool) -> Request:
        """The request that these inputs, (B, T, H, K) and (B, T, H, V), make."""
        batch, length, heads, key_dim = q.shape
        value_dim = v.shape[-1] // max(k.shape[-1] // key_dim, 1)  # k and v may hold several pairs a token
        return Request(batch, length, heads, key_dim, value_dim, v.dtype, k.device.type, training)


def state_bytes(memory: AnyMemory, request: Request, heads: int | None = None) -> int:
    """Bytes of the state after the request's last token."""
    heads = heads or request.heads
    dtype = memory.state_dtype(request.dtype)
    weights = {
        n: torch.zeros(heads, *s, device="meta")
        for n, s in memory.weight_shapes(request.key_dim, request.value_dim).items()
    }
    state = memory.init(request.batch, heads, request.key_dim, request.value_dim, weights, dtype, "meta")
    growing = memory.growing
    places = {
        name: request.batch * (request.length // growing[name]) * math.prod(tensor.shape[2:]) * tensor.element_size()
        for name, tensor in state.tensors()
        if name in growing
    }
    return state.nbytes + sum(places.values())
