"""Neighborhood attention (Hassani et al. 2022-2025), arXiv 2204.07143, 2209.15001, 2504.16922.

o_t = softmax attention over the nearest `window` entries, or over those of a square of pixels around t
"""

from __future__ import annotations

from mnemos.errors import expect
from mnemos.layers import LayerSpec
from mnemos.memory import Append, GridNeighborhood, KVMemory, Mask, Neighborhood, Softmax, Window
from mnemos.zoo.registry import published


@published(
    title="Neighborhood Attention Transformer",
    arxiv="2204.07143",
    year=2022,
    deviations=(
        "causal: on a line by itself, on a grid in the order of rows; the bidirectional form is not a memory",
        "the window of a last, incomplete stride group begins where that of a complete one would",
        "rotary positions in place of a table of relative biases",
    ),
)
def neighborhood_attention(
    window: int = 7, *, dilation: int = 1, stride: int = 1, grid: int | None = None
) -> LayerSpec:
    """window: entries, or rows and columns on a grid. dilation: steps between two of them. stride: queries that share
    the beginning of their window (on a line). grid: the width of a picture that comes row by row."""
    expect(grid is None or stride == 1, f"neighborhood_attention(stride=) is for lines; got {stride} with grid={grid}.")
    mask: Mask = Neighborhood(window, dilation, stride)
    if grid is not None:
        mask = GridNeighborhood(grid, window, window, dilation, dilation)
    assert mask.reach is not None
    return LayerSpec(memory=KVMemory(Append(), Window(mask.reach + 1), Softmax(rotary=10000.0, mask=mask)))
