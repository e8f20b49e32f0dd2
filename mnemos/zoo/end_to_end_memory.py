"""End-to-end memory networks that answer questions about stories (Sukhbaatar et al. 2015), arXiv 1503.08895.

m_i, c_i = sums of a sentence's words by A and C, with a vector for its age;   u = the question's words by B
hops times: p = softmax_i(u . m_i), u <- u + sum_i p_i c_i;   logits = W u
"""

from __future__ import annotations

from mnemos.models import EndToEndMemorySpec
from mnemos.tasks import WORDS
from mnemos.zoo.registry import published


@published(
    title="End-To-End Memory Networks",
    arxiv="1503.08895",
    year=2015,
    deviations=(
        "places without a sentence get no weight; in the published code they do, which is masked=False",
        "words are weighted by their position as in the published code, not as printed",
        "no noise and no linear start unless asked for: noise=0.1, and the attribute `linear` while it trains",
    ),
)
def end_to_end_memory(
    *, vocabulary: int = len(WORDS), width: int = 20, hops: int = 3, memories: int = 50
) -> EndToEndMemorySpec:
    """vocabulary: words, the nil word 0 among them, by default those of `mnemos.tasks.stories`; memories: sentences
    that are remembered."""
    return EndToEndMemorySpec(vocabulary, width, hops, memories)
