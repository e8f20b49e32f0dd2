"""Sparse distributed memory in the place of attention (Bricken & Pehlevan 2021), arXiv 2111.05498.

o_t = sum_j I(d_tj) v_j / sum_j I(d_tj),  d_tj = bits (1 - cos(q_t, k_j)) / 2,  I the intersection of two circles
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, CircleIntersection, Everything, KVMemory
from mnemos.zoo.registry import published


@published(
    title="Attention Approximates Sparse Distributed Memory",
    arxiv="2111.05498",
    year=2021,
    deviations=(
        "the weights of binary addresses as a trained layer; the paper compares them with those of trained attention",
        "between whole numbers of bits the weights follow straight lines",
    ),
)
def sdm_attention(*, bits: int = 64, radius: int = 15) -> LayerSpec:
    """bits: of the addresses that the cosines are measured in; radius: of the circles, 15 for noisy queries."""
    return LayerSpec(memory=KVMemory(write=Append(), retain=Everything(), read=CircleIntersection(bits, radius)))
