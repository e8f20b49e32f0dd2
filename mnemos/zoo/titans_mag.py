"""Titans with memory as a gate (Behrouz, Zhong, Mirrokni 2025), arXiv 2501.00663, eqs. 26-28.

o = norm(window attention(P, x)) * sigmoid(norm(memory(P, x)))        P: persistent tokens, never forgotten
"""

from __future__ import annotations

from mnemos.layers import AsGate
from mnemos.models import ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.sliding_window import sliding_window
from mnemos.zoo.titans_lmm import titans_lmm


@published(
    title="Titans: Learning to Memorize at Test Time",
    arxiv="2501.00663",
    year=2025,
    deviations=(
        "each branch has persistent tokens and an output projection of its own; none follows the product",
        "the gate's nonlinearity, left open by the paper, is a sigmoid on the memory's side",
        "persistent tokens are the window's sinks, their distance counted within the kept entries",
    ),
)
def titans_mag(
    *, window: int = 128, depth: int = 2, chunk: int | None = 16, expansion: int = 4, persistent: int = 4
) -> ModelSpec:
    attention = sliding_window(window, sinks=persistent).replace(persistent=persistent)
    memory = titans_lmm(depth=depth, chunk=chunk, expansion=expansion, persistent=persistent)
    return ModelSpec(pattern=(AsGate(layer=attention, gate=memory),))
