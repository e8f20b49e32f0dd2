"""The Routing Transformer (Roy, Saffari, Vaswani, Grangier 2020), arXiv 2003.05997, in a causal form.

o_t = softmax attention over the last `window` tokens of t's own cluster, that of the nearest centroid;
query and key are r_t = layer norm(W x_t), and centroids follow them
"""

from __future__ import annotations

from mnemos.layers import Centroids, LayerSpec, Standard
from mnemos.memory import ClusteredWindow
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.sliding_window import sliding_window


@published(
    title="Efficient Content-Based Sparse Attention with Routing Transformers",
    arxiv="2003.05997",
    year=2020,
    deviations=(
        "a cluster keeps the last `window` tokens that are nearest to its centroid; the paper's clusters choose their "
        "best tokens of the whole sequence, which lets the past depend on the future and cannot be streamed",
        "a token belongs to one cluster, where the paper averages over those that chose it",
        "local and routing heads are layers in turn, not heads of one layer; local windows slide",
        "rotary positions of the stream in place of relative ones within a cluster",
    ),
)
def routing_transformer(window: int = 256, *, clusters: int = 16, commitment: float = 1e-4) -> ModelSpec:
    """window: of the local layers, and entries of a cluster. commitment: factor of the loss that draws queries to their
    centroids (see `mnemos.layers.followed`)."""
    routing = LayerSpec(
        memory=ClusteredWindow(clusters, window, rotary=10000.0),
        keys=Standard(),
        shared_keys=True,
        controls=(("affinity", Centroids(commitment=commitment)),),
    )
    return ModelSpec(pattern=(sliding_window(window, sinks=0), routing))
