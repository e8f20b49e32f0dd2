"""Feature maps of queries and keys."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import InvalidType, expect


class FeatureMap(Declaration):
    """q and k, (..., key_dim) -> what the memory gets, (..., width(key_dim))."""

    def width(self, key_dim: int) -> int:
        """Channels of the features of `key_dim` channels."""
        return key_dim

    def __call__(self, x: Tensor) -> Tensor:
        """The features of queries or keys."""
        raise NotImplementedError


@dataclass(frozen=True)
class Unit(FeatureMap):
    """x / |x|: the length 1 that keeps gradient steps on a memory stable."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


@dataclass(frozen=True)
class Standard(FeatureMap):
    """(x - mean x) / sqrt(var x + 1e-5) over the channels: layer normalisation without gain and shift, after which all
    vectors have nearly the length sqrt(key_dim)."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])


@dataclass(frozen=True)
class Elu(FeatureMap):
    """elu(x) + 1, positive (linear attention, arXiv 2006.16236)."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1


@dataclass(frozen=True)
class DPFP(FeatureMap):
    """r_i r_(i-j) for j = 1 ... order, with r = [relu(x); relu(-x)] and i - j counted round its 2 d channels: the
    deterministic parameter-free projection (arXiv 2102.11174, eq. 37), d channels become 2 d order.

    The features are at least 0 and mostly 0. unit: they are scaled to length 1.
    """

    order: int = 3
    unit: bool = False

    def __post_init__(self) -> None:
        expect(self.order >= 1, f"DPFP(order=) is a number of shifts of at least 1; got {self.order}.")

    def width(self, key_dim: int) -> int:
        return 2 * self.order * key_dim

    def __call__(self, x: Tensor) -> Tensor:
        r = torch.cat([F.relu(x), F.relu(-x)], -1)
        features = torch.cat([r * r.roll(j, -1) for j in range(1, self.order + 1)], -1)
        return F.normalize(features, dim=-1) if self.unit else features


@dataclass(frozen=True)
class Taylor(FeatureMap):
    """f(q) . f(k) = 1 + a + a^2/2, a = q . k / sqrt(d): the softmax kernel exp(a) to second order (Based, arXiv
    2402.18668).

    The products x_i x_j come once for i < j, so that d channels become 1 + d + d (d + 1) / 2. The kernel is at least
    1/2.
    """

    def width(self, key_dim: int) -> int:
        return 1 + key_dim + key_dim * (key_dim + 1) // 2

    def __call__(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        x = x / d**0.25
        first, second = torch.triu_indices(d, d, 1, device=x.device)
        squares = x.square() / 2**0.5
        return torch.cat([torch.ones_like(x[..., :1]), x, squares, x[..., first] * x[..., second]], -1)


@dataclass(frozen=True)
class Polynomial(FeatureMap):
    """f(q) . f(k) = sum_i a_i (q . k)^i, exactly (Atlas, arXiv 2505.23735, eq. 5).

    coefficients: a_0, a_1, ..., at least 0; by default those of exp up to degree 2. unit: q and k are first scaled to
    length 1, and the features are divided by sqrt(sum_i a_i), so that they have length 1 too.

    Each monomial comes once, times the root of its a_i and of how many products of i factors it stands for (2 for
    x_i x_j, i < j): degree i of d channels has binomial(d + i - 1, i) features.
    """

    coefficients: tuple[float, ...] = (1.0, 1.0, 0.5)
    unit: bool = False

    def __post_init__(self) -> None:
        given = self.coefficients
        if not isinstance(given, tuple | list) or not all(isinstance(a, int | float) for a in given):
            raise InvalidType(f"Polynomial(coefficients=) takes numbers, such as (1.0, 1.0, 0.5); got {given!r}.")
        object.__setattr__(self, "coefficients", tuple(given))
        expect(
            len(given) > 0 and all(a >= 0 for a in given) and 0 < sum(given) < math.inf,
            f"Polynomial(coefficients=) are at least 0, and not all of them 0; got {given}.",
        )

    def width(self, key_dim: int) -> int:
        return sum(math.comb(key_dim + i - 1, i) for i, a in enumerate(self.coefficients) if a)

    def __call__(self, x: Tensor) -> Tensor:
        if self.unit:
            x = F.normalize(x, dim=-1)
        features, total = [], sum(self.coefficients) if self.unit else 1.0
        for degree, a in enumerate(self.coefficients):
            if a:
                indices, counts = _monomials(x.shape[-1], degree)
                root = torch.tensor(counts, dtype=x.dtype, device=x.device).mul(a / total).sqrt()
                index = torch.tensor(indices, dtype=torch.int64, device=x.device)  # (features, degree)
                features.append(
                    x[..., index.flatten()].unflatten(-1, index.shape).prod(-1) * root
                    if degree
                    else root.expand(*x.shape[:-1], 1)
                )
        return torch.cat(features, -1)


def _monomials(channels: int, degree: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The factors of each monomial, and in how many orders they can be multiplied."""
    found = list(itertools.combinations_with_replacement(range(channels), degree))
    orders = [math.factorial(degree) / math.prod(math.factorial(m.count(i)) for i in set(m)) for m in found]
    return found, orders
