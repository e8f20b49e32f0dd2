"""Routing attention (Roy, Saffari, Vaswani, Grangier 2020), arXiv 2003.05997, with its balanced clusters: not causal.

S_c = the `window` tokens of the whole sequence with the highest r_t . m_c;   o_ct = causal softmax attention in S_c
y_t = W_o sum_c o_ct / (n_t + 0.01), over the n_t clusters that took t; query and key are r_t = layer norm(W x_t)
"""

from __future__ import annotations

from mnemos.layers import Centroids
from mnemos.models import BalancedRoutingSpec
from mnemos.zoo.registry import published


@published(
    title="Efficient Content-Based Sparse Attention with Routing Transformers",
    arxiv="2003.05997",
    year=2020,
    deviations=(
        "the routing heads alone, as one layer; the paper's layers have local heads beside them",
        "rotary positions of the sequence in place of learned ones, relative within a cluster",
        "scores are scaled by 1/sqrt(key_dim); in the published code the layer norm undoes that, which is scale=1.0",
        "the leak of the choice is left as published; the entry routing_transformer is causal instead",
    ),
)
def routing_attention(
    window: int = 256, *, clusters: int = 16, width: int = 256, heads: int = 8, commitment: float = 1e-4
) -> BalancedRoutingSpec:
    """window: tokens of each cluster; clusters, heads: a head has clusters of its own; width: channels of x;
    commitment: factor of the loss that draws queries to their centroids (see `mnemos.layers.followed`)."""
    centroids = Centroids(commitment=commitment)
    return BalancedRoutingSpec(width, heads, clusters, window, centroids, rotary=10000.0)
