"""Memory Mosaics (Zhang et al. 2024), arXiv 2405.06394.

x + contextual(norm(x)), then x + persistent(norm(x)): kernel regression over the pairs so far, then over learned ones
"""

from __future__ import annotations

from mnemos.layers import ContextualMemory, PersistentMemory
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Memory Mosaics",
    arxiv="2405.06394",
    year=2024,
    deviations=(
        "each unit is a block of its own: a layer of the paper's is two of depth",
        "norms are RMS norms and no projection has a bias; the paper's have, though its code calls none a bit better",
        "one persistent bank a unit; the released code can average several",
        "exponents of key lengths stop at 5, as in the released code, those of queries after their doubling",
    ),
)
def memory_mosaics(*, entries: int = 2688) -> ModelSpec:
    return ModelSpec(pattern=(ContextualMemory(), PersistentMemory(entries)), ffn=0.0)
