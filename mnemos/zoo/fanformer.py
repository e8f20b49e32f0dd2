"""FANformer (Dong et al. 2025), arXiv 2502.21309.

z = [cos(W_p x + b_p), sin(W_p x + b_p), W_g x + b_g],   q, k, v = W z,   softmax attention with rotary positions
"""

from __future__ import annotations

from mnemos.layers import FourierInput, LayerSpec
from mnemos.memory import Append, Everything, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="FANformer: Improving Large Language Models Through Effective Periodicity Modeling",
    arxiv="2502.21309",
    year=2025,
    deviations=("the variant whose values have a projection of their own is not built",),
)
def fanformer(*, share: float = 0.125, kv_heads: int | None = None) -> FourierInput:
    """share: of the channels that are cosines, and as many sines."""
    memory = KVMemory(write=Append(), retain=Everything(), read=Softmax(rotary=10000.0))
    return FourierInput(LayerSpec(memory=memory, kv_heads=kv_heads), share)
