"""Multi-head embeddings attention (Xue and Aletras 2023), arXiv 2310.07911.

o_i = sum_{j <= t} softmax_j((q_t * (1 + a_i)) . (k_j * (1 + b_i)) / sqrt(K)) v_j * (1 + c_i),   one q, k, v for all i
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import HeadEmbeddings
from mnemos.zoo.registry import published


@published(
    title="Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient Multi-head Attention",
    arxiv="2310.07911",
    year=2023,
    deviations=(
        "causal, without positions",
        "embeddings start normal with standard deviation 0.02; the paper does not say",
        'with "add", a key\'s embedding has no effect and is left out: 2 vectors a head in place of 3',
    ),
)
def multi_head_embeddings(*, combine: Literal["mul", "add"] = "mul") -> HeadEmbeddings:
    return HeadEmbeddings(combine)
