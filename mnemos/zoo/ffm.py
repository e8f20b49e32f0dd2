"""Fast and forgetful memory (Morad, Kortvelesy, Liwicki, Prorok 2023), arXiv 2310.04128.

S_t = Gamma * S_{t-1} + x'_t 1^T,   Gamma_jk = exp(-alpha_j + i omega_k),   read by a linear map of Re S and Im S
"""

from __future__ import annotations

from mnemos.layers import FastForgetful
from mnemos.zoo.registry import published


@published(
    title="Reinforcement Learning with Fast and Forgetful Memory",
    arxiv="2310.04128",
    year=2023,
    deviations=(
        "a scan that needs no bound on the decay, in place of the closed form in double precision: alpha is bounded "
        "from below only",
        "the output is as wide as the input",
    ),
)
def ffm(*, traces: int = 32, contexts: int = 4) -> FastForgetful:
    return FastForgetful(traces=traces, contexts=contexts)
