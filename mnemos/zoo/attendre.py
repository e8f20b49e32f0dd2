"""Attendre's eviction policies (Yang & Hua 2024), arXiv 2401.04881.

o_t = softmax attention over the entries that were attended to last (LRA), or most often (LFA)
"""

from __future__ import annotations

from typing import Literal

from mnemos.errors import expect
from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, LeastFrequentlyAttended, LeastRecentlyAttended, Softmax
from mnemos.zoo.registry import published


@published(
    title="Attendre: Wait To Attend By Retrieval With Evicted Queries in Memory-Based Transformers",
    arxiv="2401.04881",
    year=2024,
    deviations=(
        "without the memory of queries, in which they wait for later tokens: causal, as in the paper's decoders",
        "an entry counts as attended to above a weight; the paper retrieves the best few entries",
        "token by token instead of chunk by chunk; all entries are read, not the best few",
    ),
)
def attendre(budget: int = 256, *, policy: Literal["lra", "lfa"] = "lra", kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head. policy: "lra" drops what was attended to longest ago, "lfa" what was least often."""
    expect(policy in ("lra", "lfa"), f'attendre(policy=) is "lra" or "lfa"; got {policy!r}.')
    recent = max(budget // 4, 1)
    kind = LeastRecentlyAttended if policy == "lra" else LeastFrequentlyAttended
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=kind(budget, recent=recent), read=read), kv_heads=kv_heads)
