"""A window of neighbours, on a line or on a grid of pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.mask.base import Mask


@dataclass(frozen=True)
class Line:
    """A neighbourhood of `window` entries on a line, `dilation` tokens apart, that `stride` queries share."""

    window: int = 7
    dilation: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        kind = type(self).__name__
        expect(self.window >= 1, f"{kind}(window=) counts the query itself, so at least 1; got {self.window}.")
        expect(self.dilation >= 1, f"{kind}(dilation=) is a number of tokens of at least 1; got {self.dilation}.")
        expect(
            1 <= self.stride <= self.window,
            f"{kind}(stride=) lies between 1 and the window of {self.window}; got {self.stride}.",
        )

    @property
    def span(self) -> int:
        """Tokens between the first and the last place of a neighbourhood."""
        return (self.window - 1) * self.dilation


@dataclass(frozen=True)
class Neighborhood(Line, Mask):
    """Causal neighborhood attention on a line (arXiv 2204.07143, 2209.15001, 2504.16922). Without dilation a query at i
    sees

        max(l - window + 1, 0) ... i,      l = floor(i / stride) stride + stride - 1

    so that the `stride` queries of a group share the beginning of their window: 1 is a sliding window, `window` is
    attention within blocks. With dilation each residue class of the positions is a line of its own.

    window: entries, the query's own included. stride: at most the window.
    """

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        leader = asked // self.dilation // self.stride * self.stride + self.stride - 1
        near = position // self.dilation > leader - self.window
        return near & ((asked - position) % self.dilation == 0)

    @property
    def reach(self) -> int | None:
        return self.span


@dataclass(frozen=True)
class Grid:
    """A neighbourhood of `rows` times `columns` on a picture of `width` columns that is written row by row."""

    width: int = 32
    rows: int = 7
    columns: int = 7
    row_dilation: int = 1
    column_dilation: int = 1

    def __post_init__(self) -> None:
        kind = type(self).__name__
        for name in ("width", "rows", "columns", "row_dilation", "column_dilation"):
            given = getattr(self, name)
            expect(given >= 1, f"{kind}({name}=) is at least 1; got {given}.")
        expect(
            self.columns * self.column_dilation <= self.width,
            f"{kind}(columns=) times column_dilation may not exceed the width of {self.width}; got "
            f"{self.columns} * {self.column_dilation}.",
        )

    @property
    def span(self) -> int:
        """Tokens between the first and the last place of a neighbourhood."""
        return (self.rows - 1) * self.row_dilation * self.width + (self.columns - 1) * self.column_dilation


@dataclass(frozen=True)
class GridNeighborhood(Grid, Mask):
    """Neighborhood attention on a picture of `width` columns that is written row by row: a query sees the product of

        its own row and those above it, `rows` in all;    the `columns` columns around its own

    as far as they come before it in that order, or are itself. At the edges the columns are not cut off but shifted
    inwards, so that above it a query always sees rows - 1 times `columns` entries; an even number leans left. The
    dilations are the steps between two rows and two columns: then each residue class is a line of its own, with
    edges of its own. columns * column_dilation may not exceed the width.
    """

    def sees(self, asked: Tensor, position: Tensor) -> Tensor:
        up = asked // self.width - position // self.width
        rows = (up % self.row_dilation == 0) & (up < self.rows * self.row_dilation)
        column, other = asked % self.width, position % self.width
        return rows & among_nearest(column, other, self.width - 1, self.columns, self.column_dilation)

    @property
    def reach(self) -> int | None:
        return self.span


def among_nearest(
    own: Tensor, other: Tensor, last: Tensor | int, window: int, step: int = 1, stride: int = 1
) -> Tensor:
    """Whether `other` is one of the `window` places around `own` on a line of places 0 ... last: the window is shifted
    inwards at the ends, an even one leans left, and a line that is shorter is seen whole. Each residue class modulo
    `step` is a line of its own. The `stride` places of a group share the window of the one in their middle."""
    middle = own // step // stride * stride + stride // 2
    end = (last - own % step) // step
    first = (middle - window // 2).clamp(min=0).minimum(end - window + 1)
    away = other // step - first
    return ((own - other) % step == 0) & (away >= 0) & (away < window)
