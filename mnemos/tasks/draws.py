"""Draws that several tasks need."""

from __future__ import annotations

import numpy as np


def different(random: np.random.Generator, rows: int, below: int, number: int) -> np.ndarray:
    """Numbers from [0, below), all different within a row: (rows, number)."""
    if below <= 1024 or 2 * number > below:
        return np.argsort(random.random((rows, below)), axis=1)[:, :number]
    drawn = random.integers(0, below, (rows, number))
    while (again := _repeated(drawn)).any():
        drawn[again] = random.integers(0, below, int(again.sum()))
    return drawn


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """Where a number stands that its row has had before."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, 1)
    repeated = np.zeros(numbers.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return repeated


def spelled(numbers: np.ndarray, symbols: int, width: int) -> np.ndarray:
    """Each number in [0, symbols ** width) as so many symbols: (..., width)."""
    return numbers[..., None] // symbols ** np.arange(width) % symbols
