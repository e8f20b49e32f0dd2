"""Memoria (Park, Bak 2023), arXiv 2310.03052: engrams of working, short-term and long-term memory.

remind by -|e - w|^2 and by counts of firing together,   c_ij <- c_ij + 1 for all that fire,   life <- life + use - 1
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, Softmax, Window
from mnemos.models import Engrams, ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Memoria: Resolving Fateful Forgetting Problem through Human-Inspired Memory Architecture",
    arxiv="2310.03052",
    year=2023,
    deviations=(
        "ties go to the older engram; the released code draws the first long-term engram of several at random",
        "engrams are ranked by the mean of -|e - w|^2; the released code takes the mean of its exponential",
        "the search only follows counts above 0, and a search that finds nothing finds nothing, where the released "
        "code takes any engram",
        "the long-term memory is bounded: beyond `long` engrams, those with the shortest life are deleted",
        "the memory is never emptied as a whole; the paper does so in training every 500 segments",
        "pre-norm with RMS norms, rotary positions and SwiGLU, no biases; the paper's are GPT-2 and BERT",
    ),
)
def memoria(
    *,
    segment: int = 150,
    working: int = 50,
    short: int = 400,
    long: int = 800,
    reminded: int = 50,
    depth: int = 10,
    lifespan: float = 9.0,
    extend: float = 8.0,
) -> ModelSpec:
    engrams = Engrams(
        size=segment,
        working=working,
        short=short,
        long=long,
        reminded=reminded,
        reminded_long=reminded,
        depth=depth,
        lifespan=lifespan,
        extend=extend,
    )
    # The window holds a whole segment and starts afresh with the next one: nothing ever leaves it.
    memory = KVMemory(write=Append(), retain=Window(segment), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(LayerSpec(memory),), segments=engrams)
