"""Multi-query attention out of a layer that has learned with a head of keys and values for each query."""

from __future__ import annotations

import torch

from mnemos.errors import expect, expect_kind
from mnemos.layers.memory_layer import MemoryLayer


def with_kv_heads(layer: MemoryLayer, kv_heads: int) -> MemoryLayer:
    """A copy of `layer` with fewer heads of keys and values, each the mean of the neighbours that it replaces (GQA,
    arXiv 2305.13245). Where those are equal already, the copy computes the same; else it is a start for more training.

    Raises InvalidType unless it is a MemoryLayer, InvalidValue unless kv_heads divides its heads of keys and values,
    and for a layer with a convolution, which the mean of projections does not pass through.
    """
    expect_kind(layer, MemoryLayer, "with_kv_heads(layer", "LayerSpec(KVMemory()).build(width=64, heads=4)")
    expect(
        isinstance(kv_heads, int) and kv_heads >= 1 and layer.kv_heads % kv_heads == 0,
        f"with_kv_heads(kv_heads=) divides the layer's {layer.kv_heads} heads of keys and values; got {kv_heads!r}.",
    )
    expect(
        layer.conv is None, "with_kv_heads takes a layer without a convolution on its keys; build it with conv=None."
    )
    other = layer.spec.replace(kv_heads=kv_heads).build(layer.width, layer.heads)
    weight = layer.out.weight
    other = other.to(device=weight.device, dtype=weight.dtype)
    q, k, v = layer.project.weight.detach().split(layer.sizes)
    k, v = (w.unflatten(0, (kv_heads, layer.kv_heads // kv_heads, -1)).mean(1).flatten(0, 1) for w in (k, v))
    own = {name: x for name, x in layer.state_dict().items() if name != "project.weight"}
    with torch.no_grad():
        other.load_state_dict(own | {"project.weight": torch.cat([q, k, v])})
    return other
