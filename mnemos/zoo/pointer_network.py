"""Pointer networks (Vinyals, Fortunato and Jaitly 2015), arXiv 1506.03134.

e_1 ... e_n = LSTM(x);   d_i = LSTM(x_C(i-1), d_i-1);   p(C_i = j) = softmax_j(v . tanh(W_1 e_j + W_2 d_i))
"""

from __future__ import annotations

from mnemos.models import PointerNetworkSpec
from mnemos.zoo.registry import published


@published(
    title="Pointer Networks",
    arxiv="1506.03134",
    year=2015,
    deviations=(
        "LSTMs start from PyTorch's initial weights; the paper draws all weights between -0.08 and 0.08",
        "decode(beam=) points to no place twice unless it is allowed to, in all tasks; the paper sees to valid answers "
        "in tours only",
    ),
)
def pointer_network(*, inputs: int = 2, hidden: int = 256) -> PointerNetworkSpec:
    """inputs: channels of an input, two for points in the plane; hidden: channels of encoder and decoder."""
    return PointerNetworkSpec(inputs, hidden)
