"""The Music Transformer's relative attention (Huang et al. 2018), arXiv 1809.04281.

o_t = sum_j softmax_j((q_t . k_j + q_t . E_{t-j}) / sqrt(K)) v_j
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, RelativeTable
from mnemos.memory import Append, Everything, KVMemory, Relative
from mnemos.zoo.registry import published


@published(
    title="Music Transformer",
    arxiv="1809.04281",
    year=2018,
    deviations=("distances beyond the table get no bias, as in the published code",),
)
def music_transformer(*, lags: int = 512) -> LayerSpec:
    """lags: distances, from 0 on, that have a vector of their own."""
    memory = KVMemory(write=Append(), retain=Everything(), read=Relative(lags))
    return LayerSpec(memory=memory, controls=(("bias", RelativeTable()),))
