"""The literal form of masks: the positions that a query looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mnemos.memory.mask import Dilated, GridNeighborhood, Neighborhood, PowersOfTwo


def _dilated(mask: Dilated, t: int) -> set[int]:
    return {t - i * mask.gap for i in range(mask.window + 1)}


def _powers_of_two(mask: PowersOfTwo, t: int) -> set[int]:
    mine = t // mask.block
    blocks = {mine, *range(mine - mask.window + 1, mine), *range(mask.sinks), *(mine - 2**i for i in range(64))}
    return {position for position in range(t + 1) if position // mask.block in blocks}


def _neighbours(place: int, length: int, window: int) -> range:
    """The window around a place of a line, shifted inwards at its ends."""
    start = min(max(place - window // 2, 0), length - window)
    return range(start, start + window)


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
