"""Aaren: attention as a recurrent network (Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori 2024), arXiv 2405.13956.

o_t = sum_{j <= t} softmax_j(q . k_j / sqrt(K)) v_j,   q = W_q times one learned vector
"""

from __future__ import annotations

from mnemos.layers import ConstantQuery
from mnemos.zoo.registry import published


@published(
    title="Attention as an RNN",
    arxiv="2405.13956",
    year=2024,
    deviations=(
        "chunks of tokens by matrix products, with one state carried from chunk to chunk, not a parallel prefix scan",
        "no positions are added to the inputs",
    ),
)
def aaren() -> ConstantQuery:
    return ConstantQuery()
