"""Neighborhood attention (Hassani et al. 2022-2025), arXiv 2204.07143, 2209.15001, 2504.16922.

o_t = softmax attention over the nearest `window` entries, or over those of a square of pixels around t: those before
it, or those on both sides once they have come
"""

from __future__ import annotations

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration, LayerSpec, WaitToAttend
from mnemos.memory import (
    Append,
    Delayed,
    GridNeighborhood,
    GridNeighborhoodAround,
    KVMemory,
    Mask,
    Neighborhood,
    NeighborhoodAround,
    Softmax,
    TwoSided,
    Window,
)
from mnemos.zoo.registry import published


@published(
    title="Neighborhood Attention Transformer",
    arxiv="2204.07143",
    year=2022,
    deviations=(
        "causal by default, on a grid in the order of rows",
        "with causal=False answers come late, when the neighbours behind a query are there",
        "a sequence shorter than the window is seen whole, where the paper's code refuses it",
        "causal: the window of a last, incomplete stride group begins where that of a complete one would",
        "rotary positions in place of a table of relative biases",
    ),
)
def neighborhood_attention(
    window: int = 7, *, dilation: int = 1, stride: int = 1, grid: int | None = None, causal: bool = True
) -> LayerDeclaration:
    """window: entries, or rows and columns on a grid. dilation: steps between two of them. stride: queries that share
    their window (on a line), or its beginning where it is causal. grid: the width of a picture that comes row by row.
    causal: whether only what comes before a query is seen; if not, its answer comes as many tokens late as what is seen
    may come after it: (window - 1) * dilation on a line, and (grid + 1) times that on a grid."""
    expect(grid is None or stride == 1, f"neighborhood_attention(stride=) is for lines; got {stride} with grid={grid}.")
    if not causal:
        around: TwoSided = NeighborhoodAround(window, dilation, stride)
        if grid is not None:
            around = GridNeighborhoodAround(grid, window, window, dilation, dilation)
        read = Delayed(around.delay, rotary=10000.0, around=around)
        return WaitToAttend(KVMemory(Append(), Window(2 * around.delay + 1), read))
    mask: Mask = Neighborhood(window, dilation, stride)
    if grid is not None:
        mask = GridNeighborhood(grid, window, window, dilation, dilation)
    assert mask.reach is not None
    return LayerSpec(memory=KVMemory(Append(), Window(mask.reach + 1), Softmax(rotary=10000.0, mask=mask)))
