"""Titans with memory as a context (Behrouz, Zhong, Mirrokni 2025), arXiv 2501.00663, eqs. 21-25.

h = M(q),   y = attention(P, h, x),   M written with y,   o = norm(y) * sigmoid(norm(M(y)))    segment by segment
"""

from __future__ import annotations

from mnemos.layers import AsContext
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.titans_lmm import titans_lmm


@published(
    title="Titans: Learning to Memorize at Test Time",
    arxiv="2501.00663",
    year=2025,
    deviations=(
        "causal: a token sees what was recalled for itself and earlier tokens only, and reads the memory as of itself",
        "the memory's gradients are taken at the segment's start",
        "the gate's nonlinearity, left open by the paper, is a sigmoid on the memory's side",
    ),
)
def titans_mac(*, segment: int = 32, depth: int = 2, persistent: int = 4) -> ModelSpec:
    return ModelSpec(pattern=(AsContext(memory=titans_lmm(depth=depth, chunk=segment), persistent=persistent),))
