"""Outlier-efficient Hopfield layers (Hu et al. 2024), arXiv 2404.03828.

o_t = sum_{j <= t} exp(s_j) v_j / (1 + sum_{i <= t} exp(s_i)),   s_j = q_t . k_j / sqrt(K)
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, SoftmaxOne
from mnemos.zoo.registry import published


@published(
    title="Outlier-Efficient Hopfield Layers for Large Transformer-Based Models",
    arxiv="2404.03828",
    year=2024,
    deviations=(
        "causal, as a layer of a language model, with rotary positions",
        "the largest score counts as at least 0 where it is subtracted, so that nothing overflows and a query without "
        "entries answers zero; the released code subtracts it as it is",
    ),
)
def outeffhop() -> LayerSpec:
    memory = KVMemory(write=Append(), retain=Everything(), read=SoftmaxOne(rotary=10000.0))
    return LayerSpec(memory=memory)
