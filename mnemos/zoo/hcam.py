"""Hierarchical chunk attention memory (Lampinen, Chan, Banino, Hill 2021), arXiv 2105.14039.

w = softmax of (W_q x) . (W_k mean(X_m)) / sqrt(width) over the top chunks m;   y = sum_m w_m MHA(x, X_m + P)
"""

from __future__ import annotations

from mnemos.layers import ChunkRecall
from mnemos.zoo.registry import published


@published(
    title="Towards mental time travel: a hierarchical memory for reinforcement learning agents",
    arxiv="2105.14039",
    year=2021,
    deviations=(
        "every token reads the chunks finished before its own, where the published code shows a step the memory as of "
        "its block's start or of the step",
        "what is stored is projected when it is written, not again at every read",
        "projections have no biases, and with nothing to read the answer is 0",
        "the layer alone, in the residual stream of any model; the agent around it is not part of it",
    ),
)
def hcam(*, chunk: int = 32, chosen: int = 8, keep: int | None = None, kv_heads: int | None = None) -> ChunkRecall:
    """chosen: chunks that a token reads; keep: chunks that are kept, the newest, None for all."""
    return ChunkRecall(chunk, chosen, keep, kv_heads)
