"""Sparse distributed memory as attention: keys weigh as much as their circle shares with the query's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.read.base import Read


@dataclass(frozen=True)
class CircleIntersection(Read):
    """What a sparse distributed memory with a location at every address answers, from its patterns themselves (arXiv
    2111.05498):

        o = sum_j I(d_j) v_j / sum_j I(d_j),   d_j = bits (1 - cos(q, k_j)) / 2

    I(d) counts the addresses of `bits` bits within `radius` of two that differ in d bits; between whole numbers it is
    the straight line. Beyond d = 2 radius it is 0; a query that shares nothing with any key is answered zero. Over
    cosines I is near to an exponential, so this is near to softmax attention at the scale that `attention_scale` fits.
    """

    bits: int = 64
    radius: int = 11

    def __post_init__(self) -> None:
        counts = circle_intersection(self.bits, self.radius)
        object.__setattr__(self, "_shares", tuple(count / counts[0] for count in counts))

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """I(d_j) / I(0)."""
        cosine = F.normalize(q, dim=-1) @ F.normalize(keys, dim=-1).mT
        distance = (self.bits * (1 - cosine) / 2).clamp(0, self.bits)
        shares: tuple[float, ...] = self.__dict__["_shares"]
        table = torch.tensor(shares, dtype=q.dtype, device=q.device)
        below = distance.detach().floor().long().clamp(max=self.bits - 1)
        left, right = table[below], table[below + 1]
        return left + (distance - below) * (right - left)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        shared = scores.masked_fill(~seen, 0)
        whole = shared.sum(-1, keepdim=True)
        return shared / torch.where(whole > 0, whole, 1.0)


def circle_intersection(bits: int, radius: int) -> tuple[int, ...]:
    """For d = 0 ... bits, how many addresses lie within `radius` of both of two addresses that differ in d bits:

        I(d) = sum over a + c <= radius, d - a + c <= radius of C(d, a) C(bits - d, c)

    Raises InvalidValue unless 1 <= bits and 0 <= radius <= bits.
    """
    expect(bits >= 1, f"circles of addresses need at least 1 bit; got {bits}.")
    expect(0 <= radius <= bits, f"the radius of a circle of {bits} bits lies in [0, {bits}]; got {radius}.")
    counts = []
    for d in range(bits + 1):
        same = list(
            itertools.accumulate(math.comb(bits - d, c) for c in range(bits - d + 1))
        )  # up to c of them changed
        left = [(a, min(radius - max(a, d - a), bits - d)) for a in range(d + 1)]
        counts.append(sum(math.comb(d, a) * same[most] for a, most in left if most >= 0))
    return tuple(counts)


def attention_scale(bits: int, radius: int, share: float = 0.0) -> tuple[float, float]:
    """The scale at which softmax attention over unit vectors is nearest to a sparse distributed memory, and how near:
    the least squares line of log I over the cosine 1 - 2 d / bits, its slope and its R^2.

    share: only distances with I(d) > share I(0). Raises InvalidValue where fewer than three distances are left.
    """
    counts = circle_intersection(bits, radius)
    points = [(1 - 2 * d / bits, math.log(x)) for d, x in enumerate(counts) if x > share * counts[0]]
    expect(len(points) >= 3, f"a line needs three distances; radius={radius} and share={share} leave {len(points)}.")
    x, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / x.square().sum())
    return slope, float((x * y).sum() ** 2 / (x.square().sum() * y.square().sum()))
