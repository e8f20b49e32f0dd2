"""EM-LLM (Fountas, Benfeghoul, Oomerjee, Christopoulou, Lampouras, Bou-Ammar, Wang 2024), arXiv 2407.09450.

o_t = softmax attention over the first tokens, the window, the events that match q_t best and their neighbours in time
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import Given, LayerSpec
from mnemos.memory import EpisodicMemory, Recall, Representatives, Surprise
from mnemos.zoo.registry import published


@published(
    title="Human-like Episodic Memory for Infinite Context LLMs",
    arxiv="2407.09450",
    year=2024,
    deviations=(
        "a layer cannot see the model's predictions: unless `given`, surprise is 1 - cos(k_t, k_t-1), not the "
        "negative log probability of the token",
        "every token retrieves by its own query, as in the paper's decoding; its prefill takes the mean query of "
        "blocks of 512",
        "the window reaches back to the beginning of the event that it cuts",
        "what a token received is counted by a softmax over the window alone, not over all that was read",
        "events are first kept within their shortest and longest, then refined, in the span of the two events around a "
        "boundary",
        "the queue of neighbours is ordered by when they were last queued, newer events first at the same token",
    ),
)
def em_llm(
    window: int = 256,
    *,
    sinks: int = 4,
    similar: int = 128,
    contiguous: int = 54,
    threshold: float = 1.0,
    refine: Literal["modularity", "conductance"] | None = None,
    given: bool = False,
    kv_heads: int | None = None,
) -> LayerSpec:
    """similar, contiguous: tokens retrieved by similarity, and beside them (0.7 and 0.3 of both, as in the paper);
    threshold: standard deviations above the mean at which an event begins. given: surprise is the model's own, minus
    the log probability of each token, and the model is read by `read_with_surprise`. The parameters are those of
    zoo.transformer(), whose weights it can take over as they are."""
    memory = EpisodicMemory(
        Surprise(threshold, of="control" if given else "keys", refine=refine),
        Representatives(4),
        Recall(similar, contiguous, "tokens"),
        window=window,
        sinks=sinks,
        rotary=10000.0,
    )
    controls = (("surprise", Given("surprise")),) if given else ()
    return LayerSpec(memory=memory, controls=controls, kv_heads=kv_heads)
