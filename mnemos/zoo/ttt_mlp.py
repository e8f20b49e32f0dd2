"""TTT-MLP (Sun et al. 2024), arXiv 2407.04620.

f(x) = x + LN(W_2 gelu(W_1 x + b_1) + b_2), hidden width four times that of x, learnt as TTT-Linear's is
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
        "the inner step is 0.1 from the start; the paper raises it to that over the first 5000 steps of training",
    ),
)
def ttt_mlp(*, chunk: int = 16, step: float = 0.1, expansion: int = 4) -> TTT:
    """chunk: tokens of a mini-batch. step: the base learning rate of the inner loop. expansion: hidden width."""
    structure = NormedMLP(depth=2, expansion=expansion)
    memory = Memory(structure=structure, objective=AffineL2(), retention=Keep(), learner=MiniBatch(chunk))
    return TTT(memory=memory, step=step)
