"""LazyEviction (Zhang et al. 2025), arXiv 2506.15969.

o_t = softmax attention over the recent entries and those that have been silent for less than their longest gap
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, LazyEviction, Softmax
from mnemos.zoo.registry import published


@published(
    title="LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long Reasoning",
    arxiv="2506.15969",
    year=2025,
    deviations=(
        "trained with its budget from the start, not cut out of a full attention model",
        "the second term of the worth falls with the gap, as the paper's text has it; its formula, as it is reported, "
        "grows: LazyEviction(preference=) has both",
        "of the query heads that share a head of keys the largest weight counts, which the paper leaves open",
    ),
)
def lazy_eviction(budget: int = 256, *, period: int = 32, kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head, `period` of them the most recent; every so many tokens the budget is restored."""
    retain = LazyEviction(budget, period=period, recent=period)
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=retain, read=read), kv_heads=kv_heads)
