"""Memora (Behrouz, Razaviyayn, Zhong, Mirrokni 2025), arXiv 2504.13173.

W_t = c softmax(alpha_t log W_{t-1} - eta_t grad |M(k_t) - v_t|^2 / 2) in every row,   o_t = M(q_t) at W_t
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Sigmoid, Unit
from mnemos.memory import GD, KL, L2, MLP, Chunk, Memory
from mnemos.zoo.registry import published


@published(
    title="It's All Connected: A Journey Through Test-Time Memorization, Attentional Bias, Retention, and Online "
    "Optimization",
    arxiv="2504.13173",
    year=2025,
    deviations=(
        "rows of weights sum to their length, so that weights average 1; the paper leaves the sum open",
        "every gradient of a chunk is taken at its first weights and every read at its own token's; the paper takes a "
        "nonlinear step for a chunk's first token and linear ones for the others",
        "the loss is half the squared error, so that our rate is twice the paper's eta",
        "initial weights are learned logits; equal ones would leave all hidden units equal for good",
        "gates are one number a head, from the token alone; the paper's are per channel, of low rank",
        "the memory is x + MLP(x) scaled to length 1 without a learned gain",
        "no rotary embedding of queries and keys, which the paper mentions without a form",
    ),
)
def memora(*, chunk: int = 16, expansion: int = 4) -> LayerSpec:
    """chunk: gradients are taken at the start of chunks of this many tokens."""
    return LayerSpec(
        memory=Memory(
            structure=MLP(depth=2, expansion=expansion),
            objective=L2(),
            retention=KL(total=None),
            learner=GD(anchor=Chunk(chunk)),
        ),
        keys=Unit(),
        conv=4,
        gate="swish",
        norm="rms",
        controls=(("rate", Sigmoid(high=1 / chunk)), ("decay", Sigmoid(bias=4.0))),
    )
