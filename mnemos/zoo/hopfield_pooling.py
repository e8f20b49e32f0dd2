"""Hopfield pooling (Ramsauer et al. 2020), arXiv 2008.02217.

y_t = W_o [o_t1 ... o_tn], each o a Hopfield network of the tokens up to t, asked with a learned static query
"""

from __future__ import annotations

from mnemos.layers import HopfieldPooling
from mnemos.zoo.registry import published


@published(
    title="Hopfield Networks is All You Need",
    arxiv="2008.02217",
    year=2020,
    deviations=(
        "pools the tokens up to each one; the paper pools a whole set, which is the answer at its last token",
        "values are projected from the input, not from the keys",
        "every query stops by itself; the released code stops a head when the whole batch has converged",
    ),
)
def hopfield_pooling(*, quantity: int = 4, steps: int = 0) -> HopfieldPooling:
    """quantity: learned queries; steps: updates of them before the answer."""
    return HopfieldPooling(quantity, steps)
