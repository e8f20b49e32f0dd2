"""Neural attention (DiGiugno and Mahmood 2025), arXiv 2502.17206.

o_t = sum_{j <= t} softmax_j(w . relu(W relu(q_t + k_j + b) + c)) v_j,   q and k a network's first layer on [q; k]
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, LearnedWeights
from mnemos.memory import Append, Everything, KVMemory, MLPScores
from mnemos.zoo.registry import published


@published(
    title="Neural Attention: A Novel Mechanism for Enhanced Expressive Power in Transformer Models",
    arxiv="2502.17206",
    year=2025,
    deviations=(
        "queries and keys are projected to the few channels of the network's first layer at once; the paper's three "
        "linear maps in a row (projection, reduction, first layer) compute the same functions",
        "an eighth of the width for these channels, where the paper takes 2 of a head's 64",
        "no positions: beside the causal order, scores depend on the tokens alone",
        "in every layer of a model, where the paper also has models with it in some",
    ),
)
def neural_attention(*, key_expand: float = 0.125, hidden: int = 4, per_head: bool = False) -> LayerSpec:
    """key_expand: channels of all heads' first layers together, over the width. hidden: width of the second layer.
    per_head: a network a head, in place of one for all."""
    memory = KVMemory(write=Append(), retain=Everything(), read=MLPScores(hidden))
    rows = {"first_bias": 1, "second_weight": hidden, "second_bias": 1, "third_weight": 1}
    rules = tuple((name, LearnedWeights(number, shared=not per_head)) for name, number in rows.items())
    return LayerSpec(memory=memory, controls=rules, key_expand=key_expand)
