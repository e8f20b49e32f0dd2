"""GateLoop (Katsch 2023), arXiv 2311.01927.

h_t = a_t h_{t-1} + k_t v_t,   y_t = q_t Re(h_t),   a_t = |a_t| exp(i phase_t) made from x_t, channel by channel
"""

from __future__ import annotations

from mnemos.layers import GateLoop
from mnemos.zoo.registry import published


@published(
    title="GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling",
    arxiv="2311.01927",
    year=2023,
    deviations=(
        "magnitude and phase of a are projections of their own, sigmoid(W_m x + b_m) and W_p x + b_p; the paper leaves "
        "their making open",
        "at the start |a| lies in [0.9, 0.999] and the phase in [0, pi/10]; the paper states none",
        "queries are real, so only the real part of h is read",
        "the projection of a learns at the rate of all others",
    ),
)
def gateloop() -> GateLoop:
    return GateLoop()
