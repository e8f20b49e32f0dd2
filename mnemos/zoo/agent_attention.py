"""Agent attention (Han et al. 2023), arXiv 2312.08874, as a causal layer.

u_ti = sum_{j <= t} softmax_j(a_i . k_j / sqrt(K)) v_j,   o_t = sum_i softmax_i(q_t . a_i / sqrt(K)) u_ti + conv(v)_t
"""

from __future__ import annotations

from mnemos.layers import Agents
from mnemos.zoo.registry import published


@published(
    title="Agent Attention: On the Integration of Softmax and Linear Attention",
    arxiv="2312.08874",
    year=2023,
    deviations=(
        "causal: the paper has no such form. Agents are learned vectors; pooled from all queries, as the paper's are, "
        "they would look ahead",
        "no biases by place on the image",
        "the convolution of the values is over the last three tokens, not three by three cells of an image",
        "projections have no bias",
    ),
)
def agent_attention(*, agents: int = 16, conv: int | None = 3) -> Agents:
    """agents: vectors a head. conv: size of the convolution of the values; None for none."""
    return Agents(agents, conv)
