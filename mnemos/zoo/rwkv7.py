"""RWKV-7 "Goose" (Peng et al. 2025), arXiv 2503.14456.

S_t = S_{t-1} (Diag(w_t) - u_t (a_t * u_t)^T) + v_t k_t^T        o_t = S_t r_t
"""

from __future__ import annotations

from mnemos.layers import TimeMixing
from mnemos.zoo.registry import published


@published(
    title='RWKV-7 "Goose" with Expressive Dynamic State Evolution',
    arxiv="2503.14456",
    year=2025,
    deviations=(
        "values are not blended with those of the first layer",
        "starting values are the same in every layer, and the low ranks do not grow with the width by themselves",
        "the feed-forward is the model's own (SwiGLU) instead of RWKV's channel mixing",
    ),
)
def rwkv7(*, rank: int = 32, gate_rank: int = 64) -> TimeMixing:
    return TimeMixing(rank=rank, gate_rank=gate_rank)
