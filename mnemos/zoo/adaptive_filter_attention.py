"""Adaptive filter attention (Racioppo 2025), arXiv 2509.04154, also called robust filter attention.

V = process (1 - E^2) / (2 damping) + source E^2 + anchor,  E = exp(-damping lag),  r_j = |q - E R_lag k_j|^2
o_t = sum_j softmax_j(sharpness (-log V - (freedom + 1) log(1 + r_j / (V K freedom)))) E R_lag v_j,  y = W_o (o - v)
"""

from __future__ import annotations

from mnemos.layers import FilterAttention
from mnemos.zoo.registry import published


@published(
    title="Attention as an Adaptive Filter",
    arxiv="2509.04154",
    year=2025,
    deviations=(
        "a state that decays alike in all channels of a head, the paper's simplified model",
        "heads have as many real channels as those of softmax attention, not twice as many",
        "turning frequencies are those of rotary positions, not learned",
        "the dampings start at 0.1 to 0.001 over the heads; the paper draws them at random",
        "tokens are one unit of time apart",
    ),
)
def adaptive_filter_attention(*, coupling: float | None = None) -> FilterAttention:
    """coupling: None for learned dampings; 0.05 or 5 for the paper's spectrally coupled ones, so many times the fastest
    frequency of each head's band."""
    return FilterAttention(coupling=coupling)
