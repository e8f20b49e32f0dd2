"""Perception, memory, inference (Zeng et al. 2023), arXiv 2310.09297.

slots W compete for the tokens, segments L take on what they find, tokens ask W, then L about what W said
"""

from __future__ import annotations

from mnemos.layers import DualMemory
from mnemos.zoo.registry import published


@published(
    title="A Framework for Inference Inspired by Human Memory Mechanisms",
    arxiv="2310.09297",
    year=2023,
    deviations=(
        "causal: tokens are written a chunk at a time and read what the chunks before theirs left; the paper writes a"
        " whole sequence before it is read, as DualMemoryLayer.perceive does",
        "the long-term memory is updated as in the released code, by rows scaled with the sum of the old ones; the"
        " paper describes an outer product",
        "as in the released code: attention has no scale, the top weights are not normalised again, all attentions"
        " share their maps",
        "every layer of a model has memories of its own; the paper carries them from layer to layer",
    ),
)
def pmi(*, slots: int = 8, segments: int = 5, chunk: int = 16) -> DualMemory:
    return DualMemory(slots=slots, segments=segments, chunk=chunk)
