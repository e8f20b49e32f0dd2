"""H2O, the heavy hitter oracle (Zhang et al. 2023), arXiv 2306.14048.

o_t = softmax attention over the entries with the largest sums of weights so far, and the most recent ones
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, HeavyHitters, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
    arxiv="2306.14048",
    year=2023,
    deviations=(
        "trained with its budget from the start, not cut out of a full attention model",
        "an entry goes before the new token reads, so that a read never sees more than the budget",
    ),
)
def h2o(budget: int = 256, *, kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head, half of them the most recent."""
    retain = HeavyHitters(budget, recent=max(budget // 2, 1))
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=retain, read=read), kv_heads=kv_heads)
