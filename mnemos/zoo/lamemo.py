"""LaMemo, language modelling with look-ahead memory (Ji, Zhang, Yang, Huang 2022), arXiv 2204.07341.

Transformer-XL whose memory attends to what follows it whenever a segment begins:
o <- alpha o + (1 - alpha) o',   alpha = s / (s + s'),   s the sum of exp(score) that answer o was made with
"""

from __future__ import annotations

from mnemos.layers import SegmentAttention
from mnemos.models import LookAhead, ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.transformer_xl import transformer_xl


@published(
    title="LaMemo: Language Modeling with Look-Ahead Memory",
    arxiv="2204.07341",
    year=2022,
    deviations=(
        "of the segment, the memory sees the first token only, as in the released code: it has to stay causal",
        "alpha is exact, without the 1e-6 under the fraction; its gradient goes to the new answer's sum only",
        "the memory attends to all that follows it, however long segment and memory are",
        "in models, RMS norms before each layer and SwiGLU, not layer norms behind it and ReLU",
    ),
)
def lamemo(*, segment: int = 64, memory: int = 64) -> ModelSpec:
    layer: SegmentAttention = transformer_xl(segment=segment, memory=memory).replace(look_ahead=True)
    return ModelSpec(pattern=(layer,), segments=LookAhead())
