"""RMT, the recurrent memory transformer (Bulatov, Kuratov, Burtsev 2022), arXiv 2207.06881.

[m_s; X_s; m_s] -> transformer -> [..; Y_s; m_s+1]
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, KVMemory, Softmax, Window
from mnemos.models import MemoryTokens, ModelSpec
from mnemos.zoo.registry import published


@published(
    title="Recurrent Memory Transformer",
    arxiv="2207.06881",
    year=2022,
    deviations=(
        "what is handed on has gone through the model's last norm, as in the released code on GPT-2",
        "attention is causal among the memory tokens too; positions are rotary and count from the first of them",
        "gradients go back through all segments of a call; the state's `detach` cuts them",
    ),
)
def rmt(*, segment: int = 64, tokens: int = 8) -> ModelSpec:
    # The window holds a whole segment and starts afresh with the next one: nothing ever leaves it.
    memory = KVMemory(write=Append(), retain=Window(segment + 2 * tokens), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(LayerSpec(memory),), segments=MemoryTokens(size=segment, count=tokens))
