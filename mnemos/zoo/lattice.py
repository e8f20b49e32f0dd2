"""Lattice (Karami, Pascanu, Mirrokni 2025), arXiv 2504.05646: memory slots that every token turns.

s_i <- p_i - r_t k_ti (I - p_i p_i^T)(P k_t - v_t),   P = (p_1 ... p_m),  p_i = s_i / |s_i|,   o_t = P q_t
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import LayerSpec, Unit
from mnemos.memory import GD, L2, Dot, Matrix, Memory, OrthogonalSlots
from mnemos.zoo.registry import published


@published(
    title="Lattice: Learning to Efficiently Compress the Memory",
    arxiv="2504.05646",
    year=2025,
    deviations=(
        "made after the paper's abstract and others' accounts of it; the form of gates and codes is our choice",
        "the decoding and similarity objectives, not the encoding one; no forget gate beside the normalisation",
        "steps are taken token by token, and slots are scaled to length 1 after each",
        "slots start at unit vectors plus a learned matrix",
    ),
)
def lattice(*, objective: Literal["decoding", "similarity"] = "decoding", unit: bool = True) -> LayerSpec:
    """objective: slots decode the value from the key, or only grow similar to it. unit: slots keep length 1; False
    lets them grow, so that they turn less and less."""
    return LayerSpec(
        memory=Memory(
            structure=Matrix(learned=True),
            objective=L2() if objective == "decoding" else Dot(),
            retention=OrthogonalSlots(unit=unit),
            learner=GD(),
        ),
        keys=Unit(),
        conv=4,
        gate="swish",
        norm="rms",
    )
