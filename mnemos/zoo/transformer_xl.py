"""Transformer-XL (Dai et al. 2019), arXiv 1901.02860.

[k, v] = W_kv [stop(m); x],   score_ij = ((q_i + u) . k_j + (q_i + w) . W_r sinusoid(i - j)) / sqrt(K)
m: the inputs of the last `memory` tokens before the segment
"""

from __future__ import annotations

from mnemos.layers import SegmentAttention
from mnemos.zoo.registry import published


@published(
    title="Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context",
    arxiv="1901.02860",
    year=2019,
    deviations=(
        "u, w and W_r are a layer's own; the released code shares u and w between layers",
        "u and w start at zero, so that attention starts without a preference for content or distance",
        "in models, RMS norms before each layer and SwiGLU, not layer norms behind it and ReLU",
    ),
)
def transformer_xl(*, segment: int = 64, memory: int = 64) -> SegmentAttention:
    return SegmentAttention(segment=segment, memory=memory)
