"""Based (Arora, Eyuboglu, Zhang, Timalsina, Alberti, Zinsley, Zou, Rudra, Re 2024), arXiv 2402.18668.

M_t = M_{t-1} + v_t f(k_t)^T,   z_t = z_{t-1} + f(k_t),   o_t = M_t f(q_t) / (z_t . f(q_t))
f(q) . f(k) = 1 + a + a^2/2, a = q . k / sqrt(d);   beside softmax attention over a small window and gated convolutions
"""

from __future__ import annotations

from mnemos.layers import GatedConvolution, LayerSpec, Taylor
from mnemos.memory import GD, Append, Dot, Keep, KVMemory, Matrix, Memory, Softmax, Window
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Simple linear attention language models balance the recall-throughput tradeoff",
    arxiv="2402.18668",
    year=2024,
    deviations=(
        "the denominator, which is at least half the number of tokens, gets 1e-6 added, not 1e-12",
        "the pattern of five layers (two of them with memory) is repeated as it is; the paper's 27 and 36 layers end "
        "it with further convolutions",
    ),
)
def based(*, window: int = 64, key_expand: float = 0.25) -> ModelSpec:
    """key_expand: 16 key channels a head at one head every 64 channels, as in the paper."""
    linear = LayerSpec(
        memory=Memory(structure=Matrix(), objective=Dot(), retention=Keep(), learner=GD(rate=1.0)),
        keys=Taylor(),
        norm="sum",
        key_expand=key_expand,
    )
    attention = LayerSpec(KVMemory(write=Append(), retain=Window(window), read=Softmax(rotary=10000.0)))
    convolution = GatedConvolution()
    return ModelSpec(pattern=(convolution, linear, attention, convolution, convolution), depth=5, ffn=2.0)
