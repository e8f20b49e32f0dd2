"""PowerAttention (Chen et al. 2025), arXiv 2503.03588.

o_t = softmax attention over the blocks that are 0, 1, 2, 4, 8, ... blocks ago, the nearest ones and the first ones
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, PowersOfTwo, Softmax
from mnemos.zoo.registry import published


@published(
    title="PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse Attention",
    arxiv="2503.03588",
    year=2025,
    deviations=(
        "trained with its mask from the start, not cut out of a full attention model",
        "blocks of 64 tokens instead of 256",
    ),
)
def power_attention(*, block: int = 64, near: int = 5, sinks: int = 1, kv_heads: int | None = None) -> LayerSpec:
    """near, sinks: the nearest blocks, the query's own among them, and the first blocks, which are always seen."""
    read = Softmax(rotary=10000.0, mask=PowersOfTwo(block, window=near, sinks=sinks))
    return LayerSpec(memory=KVMemory(Append(), Everything(), read), kv_heads=kv_heads)
