"""The Hopfield layer with learned patterns (Ramsauer et al. 2020), arXiv 2008.02217.

softmax attention, then o = a Hopfield network of learned patterns asked with each token
"""

from __future__ import annotations

from mnemos.layers import HopfieldLookup, LayerSpec
from mnemos.memory import KVMemory, Softmax
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Hopfield Networks is All You Need",
    arxiv="2008.02217",
    year=2020,
    deviations=(
        "in the place of a transformer's feed-forward network; the paper has it between any two layers",
        "values are a projection of the learned patterns; learned targets of their own are left out",
    ),
)
def hopfield_lookup(*, entries: int = 256, steps: int = 0) -> ModelSpec:
    """entries: learned patterns; steps: updates of each token before the answer."""
    attention = LayerSpec(memory=KVMemory(read=Softmax(rotary=10000.0)))
    return ModelSpec(pattern=(attention, HopfieldLookup(entries, steps)), ffn=0.0)
