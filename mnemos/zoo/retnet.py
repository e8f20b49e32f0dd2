"""RetNet's multi-scale retention (Sun et al. 2023), arXiv 2307.08621.

M_t = g_h M_{t-1} + v_t k_t^T,   g_h = 1 - 2^(-5-h) for head h,   o_t = M_t q_t,   q and k turned by position
"""

from __future__ import annotations

from mnemos.layers import HeadDecay, LayerSpec
from mnemos.memory import GD, Decay, Dot, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Retentive Network: A Successor to Transformer for Large Language Models",
    arxiv="2307.08621",
    year=2023,
    deviations=(
        "the rescalings of keys and scores are left out: the norm of each head's output removes them",
        "rotation pairs channel i with i + key_dim/2 instead of neighbours: a fixed permutation of channels",
        "the head norm has a learned gain",
    ),
)
def retnet(*, value_expand: float = 2.0) -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=Dot(), retention=Decay(per="head"), learner=GD(rate=1.0)),
        gate="swish",
        norm="rms",
        controls=(("decay", HeadDecay()),),
        value_expand=value_expand,
        rotation=True,
    )
