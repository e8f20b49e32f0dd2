"""Gated linear attention (Yang, Wang, Shen, Panda, Kim 2023), arXiv 2312.06635.

M_t = M_{t-1} Diag(a_t) + v_t k_t^T,   a_t = sigmoid(W_2 W_1 x_t + b)^(1/16) per key channel,   o_t = M_t q_t
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, LowRankDecay
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Gated Linear Attention Transformers with Hardware-Efficient Training",
    arxiv="2312.06635",
    year=2023,
    deviations=("queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",),
)
def gla(*, key_expand: float = 0.5) -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=Dot(), retention=Decay(per="channel"), learner=GD(rate=1.0)),
        gate="swish",
        norm="rms",
        controls=(("decay", LowRankDecay(rank=16, temperature=16.0)),),
        key_expand=key_expand,
    )
