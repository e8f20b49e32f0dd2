"""Log-linear Mamba-2 (Guo, Yang, Goel, Xing, Dao, Kim 2025), arXiv 2506.04761.

Mamba-2 whose past is read bucket by bucket, each with a weight of its own; buckets double in size with age:
o_t = sum_l level_tl h_l,t C_t + D x_t,   h_l,t = sum over s in bucket l at t of (prod_{j=s+1..t} a_j) dt_s x_s B_s^T
"""

from __future__ import annotations

from mnemos.layers import StateSpace
from mnemos.memory import LogLinear, Memory
from mnemos.zoo.mamba2 import mamba2
from mnemos.zoo.registry import published


@published(
    title="Log-Linear Attention",
    arxiv="2506.04761",
    year=2025,
    deviations=(
        "beyond 2^(levels-1) tokens the last level takes in everything older; the paper allocates levels for the "
        "longest sequence",
        "heads are the model's, of width/heads * expand channels each, not of 64 channels whatever their number",
        "the output's norm is over all heads together, also with several groups",
    ),
)
def log_linear_mamba2(
    *, levels: int = 15, state_dim: int = 64, groups: int = 1, expand: float = 2.0, conv: int = 4
) -> StateSpace:
    base = mamba2(state_dim=state_dim, groups=groups, expand=expand, conv=conv)
    assert isinstance(base.memory, Memory)
    return base.replace(memory=LogLinear(base.memory, levels))
