"""Mixture of memories (Du, Sun, Lan, Hu, Cheng 2025), arXiv 2502.13685.

Each token goes to two of several memories, each a gated delta rule, and to one that all tokens share:
M^m_t = a_t M^m_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T for the two,   o_t = sum_m w_tm M^m_t q_t + M^shared_t q_t
"""

from __future__ import annotations

from mnemos.layers import Mixture
from mnemos.zoo.gated_deltanet import gated_deltanet
from mnemos.zoo.registry import published


@published(
    title="MoM: Linear Sequence Modeling with Mixture-of-Memories",
    arxiv="2502.13685",
    year=2025,
    deviations=(
        "each memory has its own speed and bias of the decay; the reference code shares them",
        "in training as in inference, the convolution runs over each memory's own tokens; the reference code's runs "
        "across the borders between memories in training",
        "values are as wide as keys by default (value_expand=2 is the paper's)",
    ),
)
def mom(*, count: int = 4, active: int = 2, shared: bool = True, value_expand: float = 1.0) -> Mixture:
    return Mixture(gated_deltanet(value_expand=value_expand), count=count, active=active, shared=shared)
