"""TOVA, token omission via attention (Oren et al. 2024), arXiv 2401.06104.

o_t = softmax attention over what is left when each token drops the entry with the smallest weight in the read before
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, HeavyHitters, KVMemory, Softmax
from mnemos.zoo.registry import published


@published(
    title="Transformers are Multi-State RNNs",
    arxiv="2401.06104",
    year=2024,
    deviations=(
        "trained with its budget from the start, not cut out of a full attention model",
        "each head of keys drops an entry of its own; the paper averages the weights over all heads of a layer",
        "the budget counts the current token; the paper's is one less",
    ),
)
def tova(budget: int = 256, *, kv_heads: int | None = None) -> LayerSpec:
    """budget: entries a head."""
    retain = HeavyHitters(budget, recent=1, decay=0.0)
    read = Softmax(rotary=10000.0, positions="original")
    return LayerSpec(memory=KVMemory(write=Append(), retain=retain, read=read), kv_heads=kv_heads)
