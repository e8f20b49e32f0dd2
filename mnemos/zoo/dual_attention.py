"""The Dual Attention Transformer (Altabaa and Lafferty 2024), arXiv 2405.16727.

r_tj[l] = (A_l x_t) . (B_l x_j) / sqrt(p),   o_t^h = sum_j softmax_j(q_t^h . k_j^h / sqrt(K)) (R^h r_tj + S^h s_j)
in half of the heads; plain softmax attention in the others
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import DualAttention
from mnemos.zoo.registry import published


@published(
    title="Disentangling and Integrating Relational and Sensory Information in Transformer Architectures",
    arxiv="2405.16727",
    year=2024,
    deviations=(
        "every layer has a symbol library of its own, asked by one head; the paper's models share one",
        "relative symbols are sines and cosines of the distance, of any length, in place of a learned table",
        "relations are bilinear, without an activation, so that they need no matrix of tokens by tokens",
    ),
)
def dual_attention(
    *, relational: int | None = None, symbols: Literal["symbolic", "relative"] = "symbolic"
) -> DualAttention:
    """relational: heads that read relations; None for half of them. symbols: what the related tokens are called."""
    return DualAttention(relational, symbols=symbols)
