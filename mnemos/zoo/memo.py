"""MEMO (Banino et al. 2020), arXiv 2001.10913.

k_i, v_i = W_k c_i, W_v c_i, c_i a fact's items side by side;   u <- LN(u + W_o sum_i softmax_i(u . k_i / sqrt(K)) v_i)
until a recurrent policy, which sees how far the weights moved, stops
"""

from __future__ import annotations

from mnemos.models import MemoSpec
from mnemos.zoo.registry import published


@published(
    title="MEMO: A Deep Network for Flexible Combination of Episodic Memories",
    arxiv="2001.10913",
    year=2020,
    deviations=(
        "one layer norm, behind the sum of a look and the query; no dropout unless asked for",
        "in use it stops at the first hop whose probability exceeds one half, by no draw",
        "memo_loss rewards the answer at the stop alone, undiscounted; overlaps below 1e-6 count as 1e-6",
    ),
)
def memo(*, inputs: int = 64, items: int = 2, asked: int = 3, answers: int = 2, hops: int = 8) -> MemoSpec:
    """inputs: channels of an item; items, asked: of a fact and of a question; answers: to choose from; hops: the most
    looks. By default for `mnemos.tasks.paired_associates`: pairs of items, a cue and two candidates."""
    return MemoSpec(inputs, items, asked, answers, hops=hops)
