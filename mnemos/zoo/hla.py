"""Higher-order linear attention (Zhang et al. 2025), arXiv 2510.27258.

o_t = q_t^T (S_t C_t - G_t),   S = sum k k^T,  C = sum q v^T,  G_t = g_t^2 G_{t-1} + k_t k_t^T (g_t C_{t-1})
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import HeadDecay, LayerSpec, Unit
from mnemos.memory import HigherOrder
from mnemos.zoo.registry import published


@published(
    title="Higher-order Linear Attention",
    arxiv="2510.27258",
    year=2025,
    deviations=(
        "the decay of G is g^2, which makes G remove exactly the future; the paper's g, and its rule for joining "
        "decayed segments, do not",
        "the third order is the masked product (((W W^T) * L) W) V; the paper's recurrence computes another sum",
        "decays are fixed per head, 1 - 2^(-5-h); the paper leaves them open",
        "queries and keys have length 1 and each head's output is normalised; the paper leaves both open",
    ),
)
def hla(*, form: Literal["second", "asymmetric", "third"] = "second", decay: bool = True) -> LayerSpec:
    return LayerSpec(
        memory=HigherOrder(form, decay=decay),
        keys=Unit(),
        norm="rms",
        controls=(("decay", HeadDecay()),) if decay else (),
    )
