"""Memory^3 (Yang et al. 2024), arXiv 2407.01178.

Attention over a few explicit memories, keys and values that the model itself made of reference texts, and the context.
"""

from __future__ import annotations

from mnemos.models import ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.transformer import transformer


@published(
    title="Memory^3: Language Modeling with Explicit Memory",
    arxiv="2407.01178",
    year=2024,
    deviations=(
        "the model by itself is a transformer; memories are written by `write_explicit`, kept in a `MemoryBank` and "
        "read by `read_with_memories`",
        "selection is by the exact softmax, where the published implementation sums exponentials",
        "memories are stored as they are, without the paper's vector quantiser",
        "vectors to search by come from any function of tokens, not from a given embedding model",
    ),
)
def memory3(*, kv_heads: int | None = None) -> ModelSpec:
    """kv_heads: heads of keys and values, a fifth of those of queries in the paper."""
    return transformer(kv_heads=kv_heads)
