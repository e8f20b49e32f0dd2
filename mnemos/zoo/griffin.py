"""Griffin (De et al. 2024), arXiv 2402.19427: two recurrent blocks, then one of local attention, and again.

recurrent: h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t per channel
attention: softmax over the last `window` tokens, all heads reading one head of keys and values
"""

from __future__ import annotations

from mnemos.layers import GatedRecurrence, LayerSpec
from mnemos.memory import Append, KVMemory, Softmax, Window
from mnemos.models import ModelSpec
from mnemos.zoo.hawk import DEVIATIONS
from mnemos.zoo.registry import published

IN_MODELS = (
    "the feed-forward is SwiGLU of 3 times the width; the paper's is GeGLU",
    "the attention turns whole heads by their positions, the paper half of each, and its output has no bias",
    "a query sees `window` keys, its own included; the released code lets it see one more",
)


@published(
    title="Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models",
    arxiv="2402.19427",
    year=2024,
    deviations=(*DEVIATIONS, *IN_MODELS),
)
def griffin(*, window: int = 1024, expand: float = 1.0) -> ModelSpec:
    recurrent = GatedRecurrence(expand=expand)
    memory = KVMemory(write=Append(), retain=Window(window), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(recurrent, recurrent, LayerSpec(memory, kv_heads=1)), depth=6, ffn=3.0)
