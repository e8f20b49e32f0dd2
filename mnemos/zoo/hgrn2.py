"""HGRN2 (Qin, Yang, Sun, Shen, Li, Sun, Zhong 2024), arXiv 2404.07904.

M_t = M_{t-1} Diag(a_t) + v_t (1 - a_t)^T,   a_t = g_l + (1 - g_l) sigmoid(W_a x_t),   o_t = M_t silu(W_q x_t)
"""

from __future__ import annotations

from mnemos.layers import Coupled, LowerBounded
from mnemos.zoo.registry import published


@published(
    title="HGRN2: Gated Linear RNNs with State Expansion",
    arxiv="2404.07904",
    year=2024,
    deviations=(
        "the lower bound g_l of layer l of L starts at l/L, as the paper's does, but each layer learns its own: it is "
        "not tied to the layers below by a cumulative softmax, and may cease to rise; the first layer's stays 0",
        "queries pass SiLU and values pass nothing, without biases, as in the later code of the same authors",
    ),
)
def hgrn2(*, key_expand: float = 1.0) -> Coupled:
    return Coupled(decay=LowerBounded(), key_expand=key_expand)
