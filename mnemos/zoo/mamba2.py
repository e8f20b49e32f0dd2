"""Mamba-2 (Dao, Gu 2024), arXiv 2405.21060.

h_t = exp(-exp(A) dt_t) h_{t-1} + dt_t x_t B_t^T,   o_t = h_t C_t + D x_t,   y = W_o norm(o * silu(z))
"""

from __future__ import annotations

from mnemos.layers import StateSpace
from mnemos.zoo.registry import published


@published(
    title="Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
    arxiv="2405.21060",
    year=2024,
    deviations=(
        "heads are the model's, of width/heads * expand channels each, not of 64 channels whatever their number",
        "the output's norm is over all heads together, also with several groups",
    ),
)
def mamba2(*, state_dim: int = 64, groups: int = 1, expand: float = 2.0, conv: int = 4) -> StateSpace:
    return StateSpace(state_dim=state_dim, groups=groups, expand=expand, conv=conv)
