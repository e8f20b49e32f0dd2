"""Hawk (De et al. 2024), arXiv 2402.19427: recurrent blocks only.

h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t per channel,   a_t = exp(-8 softplus(L) r_t),   r_t, i_t: gates of x_t
"""

from __future__ import annotations

from mnemos.layers import GatedRecurrence
from mnemos.zoo.registry import published

DEVIATIONS = (
    "the block-diagonal gates have one block a head",
    "a^8 starts in [0.9, 0.999], its square uniform, as the text says; the released code starts a itself there",
    "h is as wide as the model by default; expand=4/3 is the paper's",
)


@published(
    title="Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models",
    arxiv="2402.19427",
    year=2024,
    deviations=(*DEVIATIONS, "the feed-forward is the model's SwiGLU; the paper's is GeGLU of 3 times the width"),
)
def hawk(*, expand: float = 1.0, conv: int = 4) -> GatedRecurrence:
    return GatedRecurrence(expand=expand, conv=conv)
