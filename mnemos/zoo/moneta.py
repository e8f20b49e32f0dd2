"""Moneta (Behrouz, Razaviyayn, Zhong, Mirrokni 2025), arXiv 2504.13173.

A_t = alpha_t A_{t-1} - eta_t grad |M(k_t) - v_t|_p^p,   W_t = A_t / |A_t|_q^(q-2),   o_t = M(q_t) at W_t,   p, q = 3, 4
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Sigmoid, Unit
from mnemos.memory import GD, MLP, Chunk, Lp, Lq, Memory
from mnemos.zoo.registry import published


@published(
    title="It's All Connected: A Journey Through Test-Time Memorization, Attentional Bias, Retention, and Online "
    "Optimization",
    arxiv="2504.13173",
    year=2025,
    deviations=(
        "every read normalises the dual state of its own token; the paper's chunks do so at their end only",
        "the q-norm is taken over each head's whole matrix; the paper does not say over what",
        "gates are one number a head, from the token alone; the paper's are per channel, of low rank",
        "the memory is x + MLP(x) scaled to length 1 without a learned gain",
        "no rotary embedding of queries and keys, which the paper mentions without a form",
    ),
)
def moneta(*, p: float = 3.0, q: float = 4.0, exact: bool = False, chunk: int = 16, expansion: int = 4) -> LayerSpec:
    """p: power of the loss. q: of the norm; exact: the mirror map itself instead of the paper's (see `Lq`). chunk:
    gradients are taken at the start of chunks of this many tokens."""
    return LayerSpec(
        memory=Memory(
            structure=MLP(depth=2, expansion=expansion),
            objective=Lp(p),
            retention=Lq(q, exact=exact),
            learner=GD(anchor=Chunk(chunk)),
        ),
        keys=Unit(),
        conv=4,
        gate="swish",
        norm="rms",
        controls=(
            ("rate", Sigmoid(bias=-2.0, high=1 / chunk)),  # the slope grows as the square of the error
            ("decay", Sigmoid(bias=4.0)),
        ),
    )
