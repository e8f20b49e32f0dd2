"""LightNet's causal layer (Qin, Mao, Shen, Li, Zhang, Dai, Zhong 2024), arXiv 2405.21022.

M_t = M_{t-1} Diag(s_{t-1} / s_t) + v_t (exp(W_k x_t) / s_t)^T,   s_t = s_{t-1} + exp(W_k x_t)
o_t = M_t silu(W_q x_t)
"""

from __future__ import annotations

from mnemos.layers import Coupled, PrefixSoftmax
from mnemos.zoo.registry import published


@published(
    title="You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
    arxiv="2405.21022",
    year=2024,
    deviations=(
        "one axis, causal: the form over several axes without an order is not a sequence layer",
        "on a grid (axes=) that means: its cells row by row, each seeing those before it",
        "MD-LRPE in the paper's cosine form with frequencies 10000^(-i/d), d channels an axis; no MD-TPE",
    ),
)
def lightnet(*, gate_rank: int = 64, key_expand: float = 1.0, axes: tuple[int, ...] | None = None) -> Coupled:
    """axes: None for no positions, () for those of a text, (32, 32) for those of an image row by row."""
    return Coupled(decay=PrefixSoftmax(), gate_rank=gate_rank, key_expand=key_expand, axes=axes)
