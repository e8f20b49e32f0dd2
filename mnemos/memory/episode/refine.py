"""Boundaries moved to where a graph of similar tokens comes apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.memory.episode.rounding import DECIMALS

Metric = Literal["modularity", "conductance"]


def modularity(adjacency: Tensor) -> Tensor:
    """How well a graph parts into its first c nodes and the others, for c = 1 .. n - 1 (higher is better).

        Q_c = 1/2m sum over i, j on the same side of (A_ij - d_i d_j / 2m),   d_i = sum_j A_ij,   2m = sum_i d_i

    adjacency: symmetric, (..., n, n). Returns (..., n - 1); -inf where 2m = 0 (EM-LLM, arXiv 2407.09450).
    """
    left, right, _, total = _sides(adjacency)
    first = left + (total - left - right) / 2  # the degrees of the first c nodes, by symmetry
    second = total - first
    quality = (left + right - (first.square() + second.square()) / total) / total
    return torch.where(total == 0, -torch.inf, quality)


def conductance(adjacency: Tensor) -> Tensor:
    """How much connects the first c nodes of a graph with the others, for c = 1 .. n - 1 (lower is better).

        sum over i left, j right of A_ij, divided by the smaller one of the two sums of A_ij within the sides

    adjacency: symmetric, (..., n, n). Returns (..., n - 1); inf where a side has no positive sum (EM-LLM, arXiv
    2407.09450).
    """
    left, right, cut, _ = _sides(adjacency)
    volume = torch.minimum(left, right)
    return torch.where(volume > 0, cut / volume, torch.inf)


def _sides(adjacency: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums within the first c nodes, within the others and between them, (..., n - 1), and of all, (..., 1)."""
    sums = adjacency.cumsum(-1).cumsum(-2)
    total = sums[..., -1:, -1]
    left = sums.diagonal(dim1=-2, dim2=-1)[..., :-1]
    first = sums[..., :-1, -1]
    return left, total - 2 * first + left, first - left, total


def goodness(adjacency: Tensor, metric: Metric) -> Tensor:
    """Higher is better, (..., n - 1)."""
    quality = modularity(adjacency) if metric == "modularity" else -conductance(adjacency)
    return quality.round(decimals=DECIMALS)


def refine_boundaries(keys: Tensor, boundaries: Sequence[int], metric: Metric = "modularity") -> list[int]:
    """Each boundary moved back to where its two episodes come apart best (EM-LLM, arXiv 2407.09450).

    A boundary b between the refined one before it, a, and the next one as it was found, c, goes to the place in (a, b]
    at which the tokens [a, c), a graph with the weights A_ij = k_i . k_j, part best into two; the latest of equals
    (to six decimals).

    keys: (T, channels), those of all heads side by side; boundaries: the tokens with which episodes begin, ascending,
    in [1, T) (the first episode begins at 0). Returns as many, in order, none later than it was.

    Raises InvalidType or InvalidValue for anything else.
    """
    if not isinstance(keys, Tensor) or not keys.is_floating_point():
        raise InvalidType(f"keys must be a floating point tensor; got {getattr(keys, 'dtype', type(keys).__name__)}.")
    expect(keys.ndim == 2, f"keys must be (time, channels); got shape {tuple(keys.shape)}.")
    found = list(boundaries)
    if any(not isinstance(b, int) for b in found) or any(a >= b for a, b in zip([0, *found], found, strict=False)):
        raise InvalidValue(f"boundaries must be ascending token numbers of at least 1; got {found}.")
    expect(not found or found[-1] < len(keys), f"boundaries must lie below {len(keys)}, the tokens; got {found}.")
    expect(metric in ("modularity", "conductance"), f'metric is "modularity" or "conductance"; got {metric!r}.')
    keys = keys.detach().double()
    refined = [0]
    for here, following in zip(found, [*found[1:], len(keys)], strict=True):
        before = refined[-1]
        span = keys[before:following]
        quality = goodness(span @ span.T, metric)[: here - before]
        refined.append(here - int(quality.flip(0).argmax()))
    return refined[1:]


def settled(
    keys: Tensor, slot: Tensor, episode: Tensor, number: Tensor, due: Tensor, longest: int, metric: Metric
) -> Tensor:
    """`episode` (B, N) after the boundary between episodes `number` - 1 and `number` (B,) was moved back, by no more
    than `longest` tokens, in the rows where that is `due` (B,). keys (B, N, H, K), slot (B, N) position + 1."""
    second = (episode == number[:, None]) & (slot > 0)
    first = (episode == number[:, None] - 1) & (slot > 0) & (number[:, None] > 1)
    among = torch.where((first | second) & due[:, None], slot, 0)
    at, places = (x.flip(1) for x in among.topk(min(3 * longest, slot.shape[1]), 1))  # by age
    here = at > 0
    if at.shape[1] < 2:
        return episode
    nodes = keys.detach().flatten(2).double()
    nodes = nodes.gather(1, places[..., None].expand(-1, -1, nodes.shape[-1])) * here[..., None]
    quality = goodness(nodes @ nodes.mT, metric)  # of a split before place 1, 2 ...
    begins = torch.where(second, slot, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
    legal = here[:, :-1] & (at[:, 1:] <= begins) & (at[:, 1:] >= begins - longest)
    best = quality.masked_fill(~legal, -torch.inf).flip(1).argmax(1, keepdim=True)
    start = at[:, 1:].flip(1).gather(1, best)
    moves = first & (slot >= start) & legal.any(1, keepdim=True)
    return torch.where(moves & due[:, None], number[:, None], episode)
