"""MesaNet (von Oswald et al. 2025), arXiv 2506.05233.

G_t = a_t G_{t-1} + b_t v_t k_t^T,   H_t = a_t H_{t-1} + b_t k_t k_t^T,   o_t = G_t (H_t + Lambda)^-1 q_t
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Learned, Sigmoid, Unit
from mnemos.memory import L2, Decay, LeastSquares, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="MesaNet: Sequence Modeling by Locally Optimal Test-Time Training",
    arxiv="2506.05233",
    year=2025,
    deviations=(
        "the linear systems are solved to rounding error, not for a fixed number of iterations",
        "the published code's further factor 1 - 0.0025 b^2 on the decay is left out",
        "the decay starts near 0.98 (a bias of 4 before the sigmoid)",
    ),
)
def mesanet() -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Decay(per="head"), learner=LeastSquares()),
        keys=Unit(),
        conv=4,
        conv_values=False,
        norm="rms",
        controls=(
            ("rate", Sigmoid()),
            ("decay", Sigmoid(bias=4.0)),
            ("ridge", Learned(low=0.25, start=1.0)),
        ),
    )
