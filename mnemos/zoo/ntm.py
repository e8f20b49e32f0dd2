"""Neural Turing machines (Graves, Wayne, Danihelka 2014), arXiv 1410.5401.

w = sharpen(shift(gate softmax(strength cos(k, M)) + (1 - gate) w)),   M <- M * (1 - w e^T) + w a^T,   r = w^T M
"""

from __future__ import annotations

from typing import Literal

from mnemos.layers import TuringMachine
from mnemos.zoo.registry import published


@published(
    title="Neural Turing Machines",
    arxiv="1410.5401",
    year=2014,
    deviations=(
        "every head of the layer has rows of its own, with one head that reads and one that writes; the paper's heads"
        " share one memory",
        "reads before it writes; the paper leaves the order open",
        "what rows hold at first is learned, and heads start at the first row; the paper leaves both open",
        "what is added is not squashed",
    ),
)
def ntm(*, slots: int = 128, controller: Literal["lstm", "feedforward"] = "lstm", hidden: int = 100) -> TuringMachine:
    return TuringMachine(slots=slots, controller=controller, hidden=hidden)
