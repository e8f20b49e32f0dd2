"""Landmark attention (Mohtashami, Jaggi 2023), arXiv 2305.16300.

o_t = sum_j p_j p_landmark(block of j) v_j, with one softmax within each earlier block and one over the current block's
entries and the landmarks of the earlier ones
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, Landmark
from mnemos.zoo.registry import published


@published(
    title="Landmark Attention: Random-Access Infinite Context Length for Transformers",
    arxiv="2305.16300",
    year=2023,
    deviations=(
        "every (block + 1)th token of the stream counts as a landmark: who makes the tokens inserts them",
        "`top` chooses for each query and head; blocks in the query's own past, however near, compete with all others: "
        "the paper's local segment is one block here",
        "stingy: a retrieved block is moved with its landmark, whose score in the softmax is that of its new place",
    ),
)
def landmark_attention(
    *,
    block: int = 50,
    top: int | None = None,
    rotary: float | None = 10000.0,
    stingy: bool = False,
    kv_heads: int | None = None,
) -> LayerSpec:
    """block: ordinary tokens between two landmarks. top: blocks that a query reads; None, as in training, for all.
    rotary: base of the positions, or None for none. stingy: retrieved blocks stand just before the query's own, as in
    the paper's cache; otherwise positions are those of the stream."""
    read = Landmark(block, top, rotary=rotary, positions="stingy" if stingy else "kept")
    return LayerSpec(memory=KVMemory(Append(), Everything(), read), kv_heads=kv_heads)
