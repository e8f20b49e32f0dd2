"""Attendre's two memories (Yang & Hua 2024), arXiv 2401.04881: what is attended to stays, and queries wait.

o_t = softmax attention of q_{t-delay} over the entries that were attended to last (LRA), or most often (LFA)
"""

from __future__ import annotations

from typing import Literal

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration, LayerSpec, WaitToAttend
from mnemos.memory import (
    Append,
    Delayed,
    KVMemory,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    Retain,
    Softmax,
    Window,
)
from mnemos.zoo.registry import published


@published(
    title="Attendre: Wait To Attend By Retrieval With Evicted Queries in Memory-Based Transformers",
    arxiv="2401.04881",
    year=2024,
    deviations=(
        "what is new is protected by its age: the last quarter of the budget stays",
        "without `top` all entries are read, and an entry counts as attended to above a weight of 0.01",
        "token by token instead of chunk by chunk",
        "rotary positions of the stream, where the paper takes those of its pretrained models",
    ),
)
def attendre(
    budget: int = 256,
    *,
    policy: Literal["lra", "lfa", "fifo"] = "lra",
    delay: int = 0,
    top: int | None = None,
    kv_heads: int | None = None,
) -> LayerDeclaration:
    """budget: entries a head. policy: "lra" drops what was attended to longest ago, "lfa" what was least often, "fifo"
    the oldest. delay: tokens that a query waits before it asks, so that it sees so many that follow it; 0, as in the
    paper's decoders, for a causal layer. top: entries that a query reads, the best; None for all."""
    expect(policy in ("lra", "lfa", "fifo"), f'attendre(policy=) is "lra", "lfa" or "fifo"; got {policy!r}.')
    recent, threshold = max(budget // 4, 1), 1e-2 if top is None else 0.0
    retains: dict[str, Retain] = {
        "lra": LeastRecentlyAttended(budget, recent=recent, threshold=threshold),
        "lfa": LeastFrequentlyAttended(budget, recent=recent, threshold=threshold),
        "fifo": Window(budget),
    }
    retain = retains[policy]
    if delay or top is not None:
        return WaitToAttend(KVMemory(Append(), retain, Delayed(delay, top, rotary=10000.0)), kv_heads)
    return LayerSpec(
        memory=KVMemory(Append(), retain, Softmax(rotary=10000.0, positions="original")), kv_heads=kv_heads
    )
