"""Core context aware attention (Chen et al. 2024), arXiv 2412.12465.

o_t = softmax attention over the last entries and, for each older group, one core: the average of its keys and of its
values by the softmax of the scores that its last token gives them
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import CoreContext
from mnemos.zoo.registry import published


@published(
    title="Core Context Aware Transformers for Long Context Language Modeling",
    arxiv="2412.12465",
    year=2024,
    deviations=(
        "keys and values are pooled instead of inputs, which is the same for linear projections",
        "groups are pooled before the rotary positions, and a core stands at its last token; the paper is silent",
        "with kv_heads a group is weighed by the mean of the queries that share a head; the paper is silent",
        "trained with its cores from the start, not tuned from a full attention model",
    ),
)
def cca_attention(window: int = 1024, *, group: int = 16, kv_heads: int | None = None) -> LayerSpec:
    """window: tokens before the current one that are always read one by one; group: tokens to a core."""
    return LayerSpec(memory=CoreContext(group, window, rotary=10000.0), kv_heads=kv_heads)
