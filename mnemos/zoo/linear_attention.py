"""Linear attention (Katharopoulos, Vyas, Pappas, Fleuret 2020), arXiv 2006.16236.

M_t = M_{t-1} + v_t f(k_t)^T,   z_t = z_{t-1} + f(k_t),   o_t = M_t f(q_t) / (z_t . f(q_t)),   f = elu + 1
"""

from __future__ import annotations

from mnemos.layers import Elu, LayerSpec
from mnemos.memory import GD, Dot, Keep, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
    arxiv="2006.16236",
    year=2020,
    deviations=("the denominator gets 1e-6 added",),
)
def linear_attention() -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=Dot(), retention=Keep(), learner=GD(rate=1.0)),
        keys=Elu(),
        norm="sum",
    )
