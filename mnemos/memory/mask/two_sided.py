"""Neighbours on both sides of a query that has waited for those behind it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.mask.neighborhood import Grid, Line, among_nearest


class TwoSided(Declaration):
    """A pattern of sparse attention by the place of a query and of what came after it; for `Delayed(around=)`."""

    def sees(self, own: Tensor, position: Tensor, newest: Tensor) -> Tensor:
        """Whether a query whose token is at `own` looks at the entry written at `position`, when the last entry is at
        `newest` >= own: whole numbers that broadcast against each other, to bool. All newest >= own + delay are the
        same to it; with less, the stream has ended there. What it says of positions beyond `newest` does not matter."""
        raise NotImplementedError

    @property
    def delay(self) -> int:
        """How many tokens a query must wait until all that it looks at is there. It looks as far back at most."""
        raise NotImplementedError


@dataclass(frozen=True)
class NeighborhoodAround(Line, TwoSided):
    """Neighborhood attention on a line of L tokens (arXiv 2204.07143, 2209.15001, 2504.16922). Without dilation a query
    at i sees

        b ... b + window - 1,      b = clamp(c - floor(window / 2), 0, L - window)
                                   c = floor(i / stride) stride + floor(stride / 2)

    so always exactly `window` entries: at the ends of the line the window is not cut off but shifted inwards, and an
    even one leans left. The `stride` queries of a group share their window: 1 is a sliding window, `window` is
    attention within blocks. With dilation each residue class of the positions is a line of its own, with ends of its
    own.

    window: entries, the query's own included; a line that is shorter is seen whole. stride: at most the window.
    """

    def sees(self, own: Tensor, position: Tensor, newest: Tensor) -> Tensor:
        return among_nearest(own, position, newest, self.window, self.dilation, self.stride)

    @property
    def delay(self) -> int:
        return self.span


@dataclass(frozen=True)
class GridNeighborhoodAround(Grid, TwoSided):
    """Neighborhood attention on a picture of `width` columns that is written row by row: a query sees the product of

        the `rows` rows around its own;    the `columns` columns around its own

    Both axes are as in `NeighborhoodAround`: at the edges windows are not cut off but shifted inwards, an even number
    leans left, and with dilations (the steps between two rows and two columns) each residue class is a line of its own.
    columns * column_dilation may not exceed the width; of a picture with fewer rows all are seen.

    A last row that is not complete is a row like the others: what is missing from it is not seen, and nothing else is
    seen instead.
    """

    def sees(self, own: Tensor, position: Tensor, newest: Tensor) -> Tensor:
        width = self.width
        row = among_nearest(own // width, position // width, newest // width, self.rows, self.row_dilation)
        return row & among_nearest(own % width, position % width, width - 1, self.columns, self.column_dilation)

    @property
    def delay(self) -> int:
        return self.span
