"""Titans with memory as a layer (Behrouz, Zhong, Mirrokni 2025), arXiv 2501.00663, eqs. 29-31.

y = x + memory(P, x),   o = y + window attention(y)        P: persistent tokens
"""

from __future__ import annotations

from mnemos.models import ModelSpec
from mnemos.zoo.registry import published
from mnemos.zoo.sliding_window import sliding_window
from mnemos.zoo.titans_lmm import titans_lmm


@published(
    title="Titans: Learning to Memorize at Test Time",
    arxiv="2501.00663",
    year=2025,
    deviations=(
        "memory and attention are blocks of their own with a residual and a feed-forward each; the paper states none",
        "the attention has persistent tokens of its own, kept as sinks",
    ),
)
def titans_mal(*, window: int = 128, depth: int = 2, chunk: int | None = 16, persistent: int = 4) -> ModelSpec:
    memory = titans_lmm(depth=depth, chunk=chunk, persistent=persistent)
    attention = sliding_window(window, sinks=persistent).replace(persistent=persistent)
    return ModelSpec(pattern=(memory, attention))
