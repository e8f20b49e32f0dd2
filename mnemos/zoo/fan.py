"""A transformer with Fourier analysis networks (Dong et al. 2024), arXiv 2410.02675.

x + attention(norm(x)), then x + W_2 [cos(W_p z), sin(W_p z), gelu(W_g z + b)], z = norm(x)
"""

from __future__ import annotations

from mnemos.layers import LayerSpec
from mnemos.memory import Append, Everything, KVMemory, Softmax
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published


@published(
    title="FAN: Fourier Analysis Networks",
    arxiv="2410.02675",
    year=2024,
    deviations=(
        "a quarter of the hidden layer cosines, a quarter sines, as in the paper; not its gated variant",
        "angles have a bias, as in the released code",
        "in a decoder with rotary positions and RMS norms",
    ),
)
def fan() -> ModelSpec:
    memory = KVMemory(write=Append(), retain=Everything(), read=Softmax(rotary=10000.0))
    return ModelSpec(pattern=(LayerSpec(memory),), ffn=4.0, feed_forward="fan")
