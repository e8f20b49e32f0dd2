"""KeyDiff (Park et al. 2025), arXiv 2504.15364.

o_t = softmax attention over the entries whose keys are least similar to the mean of the kept keys
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KeyDifference, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference",
    arxiv="2504.15364",
    year=2025,
    deviations=(
        "trained with its budget from the start, not cut out of a full attention model",
        "entries go token by token; the paper cuts the cache after each block of a prompt",
    ),
)
def keydiff(budget: int = 256, *, kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head."""
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=KeyDifference(budget), read=read), kv_heads=kv_heads)
