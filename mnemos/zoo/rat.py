"""RAT: recurrence within chunks, attention across them (Wei, Yadav, Pascanu, Gulcehre 2025), arXiv 2507.04416.

(K_t, V_t) = g_t (K_{t-1}, V_{t-1}) + (1 - g_t) (k_t, v_t) within a chunk, from zero
o_t = softmax attention of q_t over the last (K, V) of every chunk before and (K_t, V_t),   y = W_o (sigmoid(z) * o)
"""

from __future__ import annotations

from mnemos.layers import RecurrentChunks
from mnemos.zoo.registry import published


@published(
    title="RAT: Bridging RNN Efficiency and Attention Accuracy in Language Modeling",
    arxiv="2507.04416",
    year=2025,
    deviations=("the layer alone: the paper's hybrid with local attention is a pattern of two layers",),
)
def rat(*, chunk: int = 16, groups: int = 2) -> RecurrentChunks:
    return RecurrentChunks(chunk=chunk, groups=groups)
