"""The relational memory core (Santoro et al. 2018), arXiv 1806.01822.

M~ = attention and MLP over the rows of [M; x_t],   M_t = i * tanh(M~) + f * M_{t-1},   y = W_o M_t
"""

from __future__ import annotations

from mnemos.layers import RelationalMemory
from mnemos.zoo.registry import published


@published(
    title="Relational recurrent neural networks",
    arxiv="1806.01822",
    year=2018,
    deviations=(
        "slots are as wide as the model, and a linear map brings all of them back to its width",
        "as in the released code: one layer norm over queries, keys and values together, no map after the heads, gates"
        " of the linear map of the input; the MLP is shared by the blocks",
        "one row a token: the code can make several rows of an input",
    ),
)
def relational_memory_core(*, slots: int = 8, blocks: int = 1) -> RelationalMemory:
    return RelationalMemory(slots=slots, blocks=blocks)
