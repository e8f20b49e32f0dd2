"""Log-linear Gated DeltaNet (Guo, Yang, Goel, Xing, Dao, Kim 2025), arXiv 2506.04761.

Gated DeltaNet whose past is read bucket by bucket, each with a weight of its own; buckets double in size with age:
o_t = sum_l level_tl S_l,t q_t
S_l,t = sum over s in bucket l at t of b_s v_s k_s^T prod_{j=s+1..t} a_j (I - b_j k_j k_j^T)
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, LevelWeights
from mnemos.memory import LogLinear, Memory
from mnemos.zoo.gated_deltanet import gated_deltanet
from mnemos.zoo.registry import published


@published(
    title="Log-Linear Attention",
    arxiv="2506.04761",
    year=2025,
    deviations=(
        "beyond 2^(levels-1) tokens the last level takes in everything older; the paper allocates levels for the "
        "longest sequence",
        "queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",
        "keys and values have equal widths by default (value_expand=2 is the paper's)",
    ),
)
def log_linear_gated_deltanet(*, levels: int = 15, conv: int | None = 4, value_expand: float = 1.0) -> LayerSpec:
    base = gated_deltanet(conv=conv, value_expand=value_expand)
    assert isinstance(base.memory, Memory)
    controls = (*base.controls, ("level", LevelWeights()))
    return base.replace(memory=LogLinear(base.memory, levels), controls=controls)
