"""Convex hulls of points in the plane, for networks that answer with places of their input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mnemos.errors import InvalidValue, expect


class Hulls(NamedTuple):
    """points (B, n, 2), uniform in the unit square; targets (B, n + 1), the places of the hull's corners,
    anticlockwise from the smallest place, then n for the end, then -1."""

    points: Tensor
    targets: Tensor


class HullScore(NamedTuple):
    """accuracy: share of the rows with the right corners in the right order, whichever comes first. coverage: mean
    share of the hull's area, over the rows whose answer is a polygon that does not cross itself. simple: share of
    these rows."""

    accuracy: float
    coverage: float
    simple: float


def convex_hulls(number: int, *, points: int = 10, generator: torch.Generator | None = None) -> Hulls:
    """Examples of the planar task of pointer networks (arXiv 1506.03134). Raises InvalidValue for sizes that cannot
    be."""
    expect(number >= 1, f"convex_hulls(number=) must be at least 1; got {number!r}.")
    expect(points >= 3, f"convex_hulls(points=) must be at least 3; got {points!r}.")
    made = torch.rand(number, points, 2, generator=generator, dtype=torch.float64)
    targets = torch.full((number, points + 1), -1)
    for row, of_row in enumerate(made.tolist()):
        corners = _hull(of_row)
        targets[row, : len(corners) + 1] = torch.tensor([*corners, points])
    return Hulls(made, targets)


def score_hulls(answers: Tensor, hulls: Hulls) -> HullScore:
    """How good answers (B, m), places up to the first n or -1, are. Raises InvalidValue for places that there are
    not."""
    number = hulls.points.shape[1]
    if answers.ndim != 2 or len(answers) != len(hulls.points):
        raise InvalidValue(f"answers must be ({len(hulls.points)}, places); got shape {tuple(answers.shape)}.")
    if answers.numel() and not -1 <= int(answers.min()) <= int(answers.max()) <= number:
        raise InvalidValue(f"answers are places in [0, {number}], or -1; got {answers.unique().tolist()}.")
    right, areas = 0, []
    for given, wanted, of_row in zip(answers.tolist(), hulls.targets.tolist(), hulls.points.tolist(), strict=True):
        found, corners = _until_the_end(given, number), _until_the_end(wanted, number)
        turned = found[found.index(min(found)) :] + found[: found.index(min(found))] if found else []
        right += turned == corners
        polygon = [of_row[i] for i in found]
        if len(set(found)) == len(found) >= 3 and not _crosses_itself(polygon):
            areas.append(abs(_area(polygon)) / _area([of_row[i] for i in corners]))
    rows = len(answers)
    return HullScore(right / rows, sum(areas) / len(areas) if areas else 0.0, len(areas) / rows)


def _until_the_end(places: list[int], number: int) -> list[int]:
    for i, place in enumerate(places):
        if place in (-1, number):
            return places[:i]
    return places


def _turn(a: list[float], b: list[float], c: list[float]) -> float:
    """Twice the signed area of the triangle: positive if a, b, c turn left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _hull(points: list[list[float]]) -> list[int]:
    """Places of the corners, anticlockwise from the smallest place: a lower and an upper chain from left to right."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    chains = []
    for direction in (order, order[::-1]):
        chain: list[int] = []
        for i in direction:
            while len(chain) > 1 and _turn(points[chain[-2]], points[chain[-1]], points[i]) <= 0:
                chain.pop()
            chain.append(i)
        chains.append(chain[:-1])
    corners = chains[0] + chains[1]
    first = corners.index(min(corners))
    return corners[first:] + corners[:first]


def _area(polygon: list[list[float]]) -> float:
    """Positive for anticlockwise ones."""
    ahead = polygon[1:] + polygon[:1]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, ahead, strict=True)) / 2


def _crosses_itself(polygon: list[list[float]]) -> bool:
    """Whether two sides that are no neighbours meet."""
    number = len(polygon)
    for i in range(number):
        for j in range(i + 2, number - (i == 0)):
            a, b, c, d = polygon[i], polygon[(i + 1) % number], polygon[j], polygon[(j + 1) % number]
            if _turn(a, b, c) * _turn(a, b, d) <= 0 and _turn(c, d, a) * _turn(c, d, b) <= 0:
                return True
    return False
