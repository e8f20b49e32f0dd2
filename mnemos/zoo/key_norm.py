"""Eviction by the norms of the keys (Devoto et al. 2024), arXiv 2406.11430.

o_t = softmax attention over the entries with the shortest keys, and the most recent ones
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KeyNorm, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
    arxiv="2406.11430",
    year=2024,
    deviations=(
        "trained with its budget from the start, not cut out of a full attention model",
        "in every layer; the paper spares the first two",
        "half of the budget is for the most recent entries, so that a new one is read at all",
    ),
)
def key_norm(budget: int = 256, *, kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head, half of them the most recent."""
    retain = KeyNorm(budget, recent=max(budget // 2, 1))
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=retain, read=read), kv_heads=kv_heads)
