"""ARMT, the associative recurrent memory transformer (Rodkin, Kuratov, Bulatov, Burtsev 2024), arXiv 2407.04841.

h <- h + f(W_q h)^T A / (f(W_q h) . z)        A <- A + b k (v - k^T A / (k . z))^T,   z <- z + g k
in every block, read by all tokens of a segment and written by the memory tokens at its end
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, Softmax, Window
from mnemos.models import Associative, ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Associative Recurrent Memory Transformer",
    arxiv="2407.04841",
    year=2024,
    deviations=(
        "features of queries and keys have length 1, as in the released code, not in the paper's equations",
        "positions are rotary, and the memory tokens stand behind the segment's",
        "the memory goes on being written and read while text is generated; the released code freezes it then",
        "gradients go back through all segments of a call; the state's `detach` cuts them",
    ),
)
def armt(*, segment: int = 64, tokens: int = 8, key_dim: int = 64, normalise: bool = True) -> ModelSpec:
    carried = Associative(size=segment, count=tokens, key_dim=key_dim, normalise=normalise)
    # The window holds a whole segment and starts afresh with the next one: nothing ever leaves it.
    memory = KVMemory(write=Append(), retain=Window(segment + tokens), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(LayerSpec(memory),), segments=carried)
