"""Gated DeltaProduct (Siems et al. 2025), arXiv 2502.10297: a decay, then n delta steps a token.

M_t,0 = a_t M_{t-1},   M_t,i = M_t,i-1 (I - b_t,i k_t,i k_t,i^T) + b_t,i v_t,i k_t,i^T,   M_t = M_t,n,   o_t = M_t q_t
"""

from __future__ import annotations

from mnemos.layers import GatedDecay, LayerSpec, Sigmoid, Unit
from mnemos.memory import GD, L2, Decay, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products",
    arxiv="2502.10297",
    year=2025,
    deviations=(
        "queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",
        "keys and values have equal widths by default (value_expand changes it)",
    ),
)
def gated_deltaproduct(
    *, steps: int = 2, negative: bool = True, conv: int | None = 4, value_expand: float = 1.0
) -> LayerSpec:
    """steps: delta steps a token. negative: rates reach 2, so that the transition has eigenvalues down to -a_t."""
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Decay(per="head"), learner=GD(steps=steps)),
        keys=Unit(),
        conv=conv,
        gate="swish",
        norm="rms",
        controls=(("decay", GatedDecay()), ("rate", Sigmoid(high=2.0 if negative else 1.0))),
        value_expand=value_expand,
    )
