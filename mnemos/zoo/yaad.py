"""Yaad (Behrouz, Razaviyayn, Zhong, Mirrokni 2025), arXiv 2504.13173.

M_t = alpha_t M_{t-1} - eta_t s_t,   s_t = gradient of |r|^2 / 2 where |r| <= delta_t, of delta_t |r|_1 elsewhere,
r = M(k_t) - v_t at the chunk's first weights,   o_t = M_t(q_t)
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Sigmoid, Softplus, Unit
from mnemos.memory import GD, MLP, Chunk, Decay, Huber, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="It's All Connected: A Journey Through Test-Time Memorization, Attentional Bias, Retention, and Online "
    "Optimization",
    arxiv="2504.13173",
    year=2025,
    deviations=(
        "the quadratic branch is half the squared error, so that both branches agree with Huber's loss",
        "the sign is smoothed to r / sqrt(r^2 + 0.01), as wide as tanh(10 r); the paper leaves the width open",
        "gates are one number a head, from the token alone; the paper's are per channel, of low rank",
        "the memory is x + MLP(x) scaled to length 1 without a learned gain",
        "no rotary embedding of queries and keys, which the paper mentions without a form",
    ),
)
def yaad(*, depth: int = 2, chunk: int | None = 16, expansion: int = 4) -> LayerSpec:
    """depth: of the memory; 1 is a matrix. chunk: gradients are taken at the start of chunks of this many tokens;
    None takes them token by token, which for depth=1 is parallel and exact too."""
    return LayerSpec(
        memory=Memory(
            structure=Matrix(learned=True) if depth == 1 else MLP(depth=depth, expansion=expansion),
            objective=Huber(delta=None, form="mixture", smooth=0.01),
            retention=Decay(per="head"),
            learner=GD(anchor="previous" if chunk is None else Chunk(chunk)),
        ),
        keys=Unit(),
        conv=4,
        gate="swish",
        norm="rms",
        controls=(
            ("rate", Sigmoid(bias=-2.0) if chunk is None else Sigmoid(high=1 / chunk)),
            ("decay", Sigmoid(bias=4.0)),
            ("delta", Softplus(bias=2.0)),  # above the length of a fresh memory's errors
        ),
    )
