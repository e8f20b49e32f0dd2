"""Local linear attention (Zuo et al. 2025), arXiv 2510.01450.

o_t = b of the regression  v_j = b + W (k_j - q_t)  weighted by softmax_j(q_t . k_j / sqrt(d)), with a ridge on W
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, LocalLinear
from mnemos.zoo.registry import published


@published(
    title="Local Linear Attention: An Optimal Interpolation of Linear and Softmax Attention For Test-Time Regression",
    arxiv="2510.01450",
    year=2025,
    deviations=(
        "the systems are solved directly, not by conjugate gradients",
        "the ridge is one number, relative to the sum of the weights as in the published code",
        "queries and keys are turned by their positions; the paper's tasks need none",
    ),
)
def lla(*, ridge: float = 0.01) -> LayerSpec:
    """ridge: weight of the squared slope W; the larger, the nearer to softmax attention."""
    memory = KVMemory(write=Append(), retain=Everything(), read=LocalLinear(ridge=ridge))
    return LayerSpec(memory=memory, rotation=True)
