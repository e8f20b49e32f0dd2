"""Longformer's dilated sliding window (Beltagy et al. 2020), arXiv 2004.05150.

o_t = softmax attention over the entries 0, gap, 2 gap, ... window * gap tokens ago
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Dilated, KVMemory, Softmax, Window
from mnemos.zoo.registry import published


@published(
    title="Longformer: The Long-Document Transformer",
    arxiv="2004.05150",
    year=2020,
    deviations=(
        "causal; no global tokens, which see what is to come",
        "all heads of a layer share one dilation; a pattern of layers has several",
        "positions are rotary, as in later models with sliding windows",
    ),
)
def sliding_window_dilated(window: int = 256, *, gap: int = 2, kv_heads: int | None = None) -> LayerSpec:
    """window: entries beside the current one; gap: tokens between two of them."""
    mask = Dilated(window, gap)
    memory = KVMemory(Append(), Window(window * gap + 1), Softmax(rotary=10000.0, mask=mask))
    return LayerSpec(memory=memory, kv_heads=kv_heads)
