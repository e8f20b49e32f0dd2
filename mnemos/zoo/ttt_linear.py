"""TTT-Linear (Sun et al. 2024), arXiv 2407.04620.

f(x) = x + LN(W x + b),   W_t = W - scale_t sum_i rate_i grad |f(k_i) - v_i|^2 / 2 at the mini-batch's first W,   f(q_t)
"""

from __future__ import annotations

from mnemos.layers import TTT
from mnemos.memory import AffineL2, Keep, Memory, MiniBatch, NormedMLP
from mnemos.zoo.registry import published


@published(
    title="Learning to (Learn at Test Time): RNNs with Expressive Hidden States",
    arxiv="2407.04620",
    year=2024,
    deviations=(
        "as the published code where the paper differs: half the squared error, rate over head_dim, token factor",
        "the convolutions of queries and keys have no bias",
        "rotation pairs channel i with i + head_dim/2 instead of neighbours: a fixed permutation of channels",
    ),
)
def ttt_linear(*, chunk: int = 16, step: float = 1.0) -> TTT:
    """chunk: tokens of a mini-batch. step: the base learning rate of the inner loop."""
    memory = Memory(structure=NormedMLP(depth=1), objective=AffineL2(), retention=Keep(), learner=MiniBatch(chunk))
    return TTT(memory=memory, step=step)
