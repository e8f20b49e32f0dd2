"""Sliding-window attention with sinks (Beltagy et al. 2020, arXiv 2004.05150; Xiao et al. 2023, arXiv 2309.17453).

o_t = softmax attention over the last `window` tokens, the current one included, and the first `sinks` ones
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, Softmax, Window
from mnemos.zoo.registry import published


@published(
    title="Efficient Streaming Language Models with Attention Sinks",
    arxiv="2309.17453",
    year=2023,
    deviations=("trained with its window and sinks from the start, not cut out of a full attention model",),
)
def sliding_window(window: int = 256, *, sinks: int = 4, kv_heads: int | None = None) -> LayerSpec:
    return LayerSpec(
        memory=KVMemory(write=Append(), retain=Window(window, sinks=sinks), read=Softmax(rotary=10000.0)),
        kv_heads=kv_heads,
    )
