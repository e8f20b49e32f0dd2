"""Atlas (Behrouz et al. 2025), arXiv 2505.23735: the Omega rule with momentum and Muon's orthogonal steps.

S_t = h_t S_{t-1} - sum_{i < c} g_{t,i} grad |M_{t-1}(f(k_{t-i})) - v_{t-i}|^2 / 2
M_t = a_t M_{t-1} + r_t NewtonSchulz(S_t),   o_t = M_t(f(q_t))
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, Polynomial, Sigmoid
from mnemos.memory import L2, MLP, Decay, Matrix, Memory, Omega
from mnemos.zoo.registry import published


@published(
    title="ATLAS: Learning to Optimally Memorize the Context at Test Time",
    arxiv="2505.23735",
    year=2025,
    deviations=(
        "the rate multiplies the orthogonal step (eqs. 32-33) and not the momentum (57-58), where it would cancel",
        "the loss is half the squared error",
        "gradients are taken at the weights before each token, not at the start of a chunk",
        "the polynomial's coefficients stay at 1 / i!, and features are scaled to length 1",
        "a deep memory has no residual, because features are wider than values; its output is scaled to length 1",
        "keys and queries have a quarter of the width, whose features are many more channels",
    ),
)
def atlas(*, window: int = 8, depth: int = 2, expansion: int = 1, key_expand: float = 0.25) -> LayerSpec:
    """window: pairs that every token learns. depth, expansion: of the memory; depth 1 is a matrix."""
    deep = MLP(depth=depth, expansion=expansion, residual=False)
    return LayerSpec(
        memory=Memory(
            structure=Matrix() if depth == 1 else deep,
            objective=L2(),
            retention=Decay(per="head"),
            learner=Omega(window=window, momentum=True, muon=5),
        ),
        keys=Polynomial(unit=True),
        conv=4,
        gate="swish",
        norm="rms",
        controls=(("decay", Sigmoid(bias=4.0)), ("rate", Sigmoid(bias=-3.0)), ("momentum", Sigmoid())),
        key_expand=key_expand,
    )
