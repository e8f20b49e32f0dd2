"""DeltaNet (Schlag, Irie, Schmidhuber 2021; Yang et al. 2024), arXiv 2406.06484.

M_t = M_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T        o_t = M_t q_t
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Unit
from mnemos.memory import GD, L2, Keep, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
    arxiv="2406.06484",
    year=2024,
    deviations=("queries are not scaled by 1/sqrt(key_dim): the norm of each head's output removes it",),
)
def deltanet(*, conv: int | None = 4) -> LayerSpec:
    return LayerSpec(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Keep(), learner=GD()),
        keys=Unit(),
        conv=conv,
        norm="rms",
    )
