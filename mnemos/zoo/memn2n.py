"""End-to-end memory networks as language models (Sukhbaatar et al. 2015), arXiv 1503.08895.

u <- q_t;   hops times: p = softmax_j(u . k_j + q_t . T_{t-j}),  u <- H u + sum_j p_j v_j;   o_t = u
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Learned, RelativeTable
from mnemos.memory import Append, Hops, KVMemory, Relative, Window
from mnemos.zoo.registry import published


@published(
    title="End-To-End Memory Networks",
    arxiv="1503.08895",
    year=2015,
    deviations=(
        "a layer of a language model, with heads, its query made of the token; the paper's query is a constant vector "
        "and its memories are words themselves; the question-answering network is the entry end_to_end_memory",
        "H is diagonal, from -1 upwards, and starts as the identity; the maps around it take up another basis",
        "what a distance adds to a score is that of the first query at every hop; values have no distances",
        "no unit is cut off at zero between hops; the paper does so with half of them",
    ),
)
def memn2n(*, hops: int = 3, window: int = 100) -> LayerSpec:
    """window: tokens that are remembered."""
    read = Hops(hops, Relative(window, scale=1.0))
    memory = KVMemory(write=Append(), retain=Window(window), read=read)
    return LayerSpec(memory=memory, controls=(("carry", Learned(low=-1.0)), ("bias", RelativeTable())))
