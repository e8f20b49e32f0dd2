"""Kimi Delta Attention (Kimi Team 2025), arXiv 2510.26692.

M_t = M_{t-1} Diag(a_t) (I - b_t k_t k_t^T) + b_t v_t k_t^T,   a_t per key channel,   o_t = M_t q_t
"""

from __future__ import annotations

from mnemos.layers import GatedDecay, LayerSpec, Unit
from mnemos.memory import GD, L2, Decay, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Kimi Linear: An Expressive, Efficient Attention Architecture",
    arxiv="2510.26692",
    year=2025,
    deviations=(
        "queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",
        "the ranks of the decay and of the gate are 64 by default, a head's width at one head every 64 channels",
    ),
)
def kda(*, conv: int | None = 4, rank: int = 64) -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Decay(per="channel"), learner=GD()),
        keys=Unit(),
        conv=conv,
        gate="sigmoid",
        gate_rank=rank,
        norm="rms",
        controls=(("decay", GatedDecay(rank=rank)),),
    )
