"""Longhorn (Liu et al. 2024), arXiv 2407.14207.

S_t = argmin_S |S - S_{t-1}|^2 + b_t |S k_t - x_t|^2,   o_t = S_t q_t + D x_t,   times silu(z_t)
"""

from __future__ import annotations

from mnemos.layers import Longhorn
from mnemos.memory import L2, Implicit, Keep, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Longhorn: State Space Models are Amortized Online Learners",
    arxiv="2407.14207",
    year=2024,
    deviations=(
        "the diagonal form of the published code; diagonal=False is the minimum itself, with one b for all channels",
        "parameters other than the short convolution start as a linear layer's do",
    ),
)
def longhorn(*, diagonal: bool = True, state_dim: int = 16, expand: float = 2.0) -> Longhorn:
    return Longhorn(
        memory=Memory(structure=Matrix(), objective=L2(), retention=Keep(), learner=Implicit(diagonal=diagonal)),
        state_dim=state_dim,
        expand=expand,
    )
