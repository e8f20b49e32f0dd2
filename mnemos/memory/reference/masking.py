"""The literal form of masks: the positions that a query looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mnemos.memory.mask import (
    Dilated,
    GridNeighborhood,
    GridNeighborhoodAround,
    Neighborhood,
    NeighborhoodAround,
    PowersOfTwo,
)


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


def _neighbours(place: int, length: int, window: int) -> range:
    """The window around a place of a line, shifted inwards at its ends; a shorter line is seen whole."""
    start = max(min(max(place - window // 2, 0), length - window), 0)
    return range(start, min(start + window, length))


def _neighborhood(mask: Neighborhood, t: int) -> set[int]:
    place, residue = divmod(t, mask.dilation)
    end_of_group = (place // mask.stride + 1) * mask.stride
    return {i * mask.dilation + residue for i in range(max(end_of_group - mask.window, 0), place + 1)}


def _grid_neighborhood(mask: GridNeighborhood, t: int) -> set[int]:
    row, column = divmod(t, mask.width)
    place, residue = divmod(column, mask.column_dilation)
    line = range(residue, mask.width, mask.column_dilation)
    columns = [line[i] for i in _neighbours(place, len(line), mask.columns)]
    rows = [row - i * mask.row_dilation for i in range(mask.rows)]
    return {r * mask.width + c for r in rows for c in columns if r >= 0 and r * mask.width + c <= t}


MASKS: dict[type, Callable[[Any, int], set[int]]] = {
    Dilated: _dilated,
    GridNeighborhood: _grid_neighborhood,
    Neighborhood: _neighborhood,
    PowersOfTwo: _powers_of_two,
}
"""(mask, position of the query) -> the positions that it looks at."""


def _along(own: int, newest: int, window: int, dilation: int, stride: int = 1) -> list[int]:
    place, residue = divmod(own, dilation)
    line = range(residue, newest + 1, dilation)
    leader = min(place // stride * stride + stride // 2, len(line) - 1)
    return [line[i] for i in _neighbours(leader, len(line), window)]


def _neighborhood_around(mask: NeighborhoodAround, own: int, newest: int) -> set[int]:
    return set(_along(own, newest, mask.window, mask.dilation, mask.stride))


def _grid_neighborhood_around(mask: GridNeighborhoodAround, own: int, newest: int) -> set[int]:
    row, column = divmod(own, mask.width)
    rows = _along(row, newest // mask.width, mask.rows, mask.row_dilation)
    columns = _along(column, mask.width - 1, mask.columns, mask.column_dilation)
    return {r * mask.width + c for r in rows for c in columns if r * mask.width + c <= newest}


TWO_SIDED: dict[type, Callable[[Any, int, int], set[int]]] = {
    GridNeighborhoodAround: _grid_neighborhood_around,
    NeighborhoodAround: _neighborhood_around,
}
"""(mask, position of the query's own token, position of the newest) -> the positions that it looks at."""
