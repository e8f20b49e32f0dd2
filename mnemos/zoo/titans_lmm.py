"""Titans' long-term memory (Behrouz, Zhong, Mirrokni 2025), arXiv 2501.00663.

S_t = eta_t S_{t-1} - theta_t grad |M(k_t) - v_t|^2 / 2,   M_t = (1 - alpha_t) M_{t-1} + S_t,   o_t = M_t(q_t)
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Sigmoid, Unit
from mnemos.memory import GD, L2, MLP, Chunk, Decay, Matrix, Memory
from mnemos.zoo.registry import published


@published(
    title="Titans: Learning to Memorize at Test Time",
    arxiv="2501.00663",
    year=2025,
    deviations=(
        "the loss is half the squared error, so that our rate is twice the paper's theta",
        "gates are per head, of each token or of each chunk's first; the paper leaves their form open",
        "a deep memory is x + MLP(x) scaled to length 1; the paper leaves both open",
    ),
)
def titans_lmm(
    *, depth: int = 2, chunk: int | None = 16, expansion: int = 4, persistent: int = 0, hold: int = 1
) -> LayerSpec:
    """depth: of the memory; 1 is a matrix. chunk: gradients are taken at the start of chunks of this many tokens;
    None takes them token by token, which for depth=1 is parallel and exact too. hold: tokens that share the gates of
    the first of them, such as the chunk's; 1 gives each token its own."""
    gradient = "previous" if chunk is None else Chunk(chunk)
    return LayerSpec(
        memory=Memory(
            structure=Matrix(learned=True) if depth == 1 else MLP(depth=depth, expansion=expansion),
            objective=L2(),
            retention=Decay(per="head"),
            learner=GD(momentum=True, anchor=gradient),
        ),
        keys=Unit(),
        conv=4,
        gate="swish",
        norm="rms",
        controls=(
            # Steps from one gradient point add up over a chunk: together they must stay below 1.
            ("rate", Sigmoid(bias=-2.0) if chunk is None else Sigmoid(high=1 / chunk)),
            ("decay", Sigmoid(bias=4.0)),
            ("momentum", Sigmoid()),
        ),
        persistent=persistent,
        hold=hold,
    )
