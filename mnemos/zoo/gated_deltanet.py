"""Gated DeltaNet (Yang, Kautz, Hatamizadeh 2024), arXiv 2412.06464.

M_t = a_t M_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T        o_t = M_t q_t
"""

from __future__ import annotations

from mnemos.layers import GatedDecay, LayerSpec, Unit
from mnemos.memory import GD, L2, Decay, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Gated Delta Networks: Improving Mamba2 with Delta Rule",
    arxiv="2412.06464",
    year=2024,
    deviations=(
        "queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",
        "keys and values have equal widths by default (value_expand=2 is the paper's)",
    ),
)
def gated_deltanet(*, conv: int | None = 4, value_expand: float = 1.0) -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Decay(per="head"), learner=GD()),
        keys=Unit(),
        conv=conv,
        gate="swish",
        norm="rms",
        controls=(("decay", GatedDecay()),),
        value_expand=value_expand,
    )
