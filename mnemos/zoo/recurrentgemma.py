"""RecurrentGemma (Botev et al. 2024), arXiv 2404.07839: Griffin with scaled embeddings and capped logits.

pattern: recurrent, recurrent, attention over the last 2048 tokens;   logits 30 tanh(l / 30)
"""

from __future__ import annotations

from mnemos.models import ModelSpec
from mnemos.zoo.griffin import DEVIATIONS, IN_MODELS, griffin
from mnemos.zoo.registry import published


@published(
    title="RecurrentGemma: Moving Past Transformers for Efficient Open Language Models",
    arxiv="2404.07839",
    year=2024,
    deviations=(*DEVIATIONS[:2], *IN_MODELS),
)
def recurrentgemma(*, window: int = 2048) -> ModelSpec:
    return griffin(window=window).replace(scaled_embedding=True, logit_cap=30.0)
