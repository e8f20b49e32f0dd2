"""Dynamic mask attention (Shi et al. 2024), arXiv 2412.11834.

o_t = sum_s softmax_s(q_t . k_s / sqrt(d) + m_s) v_s,   m_s = exp(A softplus(W v_s)) per head, v_s of all heads
"""

from __future__ import annotations

from mnemos.layers import LayerSpec, ValuePreference
from mnemos.memory import Append, DynamicMask, Everything, KVMemory
from mnemos.zoo.registry import published


@published(
    title="Wonderful Matrices: Combining for a More Efficient and Effective Foundation Model Architecture",
    arxiv="2412.11834",
    year=2024,
    deviations=(
        "its attention alone, without the rotary state space layers and the mixture of experts",
        "`keep` counts entries, and only those that a query may see; the published code takes a share of all keys, "
        "those to come included",
        "heads that share keys and values share the preference",
    ),
)
def dynamic_mask_attention(*, keep: int | None = None, kv_heads: int | None = None) -> LayerSpec:
    """keep: entries with the largest m to which a query is restricted; None for no restriction."""
    memory = KVMemory(Append(), Everything(), DynamicMask(keep, rotary=10000.0))
    return LayerSpec(memory=memory, controls=(("preference", ValuePreference()),), kv_heads=kv_heads)
