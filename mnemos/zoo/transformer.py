"""The decoder-only transformer with rotary positions, RMS norms and SwiGLU (Vaswani et al. 2017, arXiv 1706.03762;
in the form of Llama, arXiv 2302.13971).

    o_t = sum_{j <= t} softmax_j(q_t . k_j / sqrt(K)) v_j,   q and k turned by position
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, Softmax
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Attention Is All You Need",
    arxiv="1706.03762",
    year=2017,
    deviations=("pre-norm, rotary positions and SwiGLU as in Llama, not the paper's post-norm encoder and decoder",),
)
def transformer(*, kv_heads: int | None = None) -> ModelSpec:
    memory = KVMemory(write=Append(), retain=Everything(), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(LayerSpec(memory, kv_heads=kv_heads),))
