"""The Hopfield layer (Ramsauer et al. 2020), arXiv 2008.02217.

q <- K^T softmax(q K^T / sqrt(d)), `steps` times; then o = softmax(q K^T / sqrt(d)) V
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, Hopfield, KVMemory
from mnemos.zoo.registry import published


@published(
    title="Hopfield Networks is All You Need",
    arxiv="2008.02217",
    year=2020,
    deviations=(
        "causal: a token's state pattern asks the patterns up to it",
        "values are projected from the input, not from the keys; inputs are not normalised again",
        "every query stops by itself; the released code stops a head when the whole batch has converged",
    ),
)
def hopfield(*, steps: int = 3, eps: float = 1e-4) -> LayerSpec:
    """steps: updates of the state patterns before the answer; 0 is softmax attention."""
    return LayerSpec(memory=KVMemory(write=Append(), retain=Everything(), read=Hopfield(steps, eps)))
