"""Multi-query attention (Shazeer 2019), arXiv 1911.02150; with several groups, grouped-query attention (2305.13245).

o_t^h = sum_{j <= t} softmax_j(q_t^h . k_j / sqrt(K)) v_j,   one k and v for all heads h of a group
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="Fast Transformer Decoding: One Write-Head is All You Need",
    arxiv="1911.02150",
    year=2019,
    deviations=(
        "scores are divided by sqrt(K), as in all later practice; the paper's listing leaves that to the weights",
        "rotary positions, turned into the one key once; the paper's models add positions to their inputs",
        "the feed-forward network is not widened to make up for the saved weights: that is ModelSpec(ffn=)",
    ),
)
def multi_query_attention(*, kv_heads: int = 1) -> LayerSpec:
    """kv_heads: heads of keys and values; query heads that stand next to each other share one."""
    memory = KVMemory(write=Append(), retain=Everything(), read=Softmax(rotary=10000.0))
    return LayerSpec(memory=memory, kv_heads=kv_heads)
