"""Decays that come with what they leave: how much is kept and how much is written add up to one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mnemos.declaration import Declaration
from mnemos.errors import expect

EMPTY = -1e30
"""The logarithm of a sum over nothing, as a number that can be subtracted."""


class CoupledDecay(Declaration):
    """x (B, T, width) -> (decay, 1 - decay), each (B, T, heads, channels) in [0, 1] and exact to its last digits."""

    def build(self, width: int, heads: int, channels: int) -> CoupledDecayModule:
        """The module that computes them, in float32 whatever the model's dtype."""
        raise NotImplementedError

    def at(self, index: int, depth: int) -> CoupledDecay:
        """The rule in block `index` of a model of `depth` blocks."""
        return self


class CoupledDecayModule(nn.Module):
    """(x, past, lengths) -> (decay, 1 - decay, past after the last token)."""

    def fresh(self) -> Tensor | None:
        """The past of one row that has seen nothing; None for a rule without one."""
        return None

    def forward(self, x: Tensor, past: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """past (B, ...) as in `fresh`; tokens at or beyond a row's length leave its past alone."""
        raise NotImplementedError


@dataclass(frozen=True)
class LowerBounded(CoupledDecay):
    """decay = g + (1 - g) sigmoid(W x), with a learned g a channel that starts at `bound` (HGRN2, arXiv 2404.07904).

    bound: in [0, 1); None takes index / depth of the block, so that higher layers remember longer. The first layer's
    (and any other of 0) is exactly 0 and not learned.
    """

    bound: float | None = None

    def __post_init__(self) -> None:
        expect(
            self.bound is None or 0 <= self.bound < 1,
            f"LowerBounded(bound=) lies in [0, 1), or is None for index / depth of the block; got {self.bound}.",
        )

    def at(self, index: int, depth: int) -> LowerBounded:
        return self if self.bound is not None else replace(self, bound=index / depth)

    def build(self, width: int, heads: int, channels: int) -> CoupledDecayModule:
        return _LowerBounded(self.bound or 0.0, width, heads, channels)


class _LowerBounded(CoupledDecayModule):
    def __init__(self, bound: float, width: int, heads: int, channels: int):
        super().__init__()
        self.shape = (heads, channels)
        self.linear = nn.Linear(width, heads * channels, bias=False)
        start = torch.full((heads * channels,), math.log(bound) - math.log1p(-bound)) if bound else None
        self.bound = None if start is None else nn.Parameter(start)

    def forward(self, x: Tensor, past: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        f = _wide(self.linear(x)).unflatten(-1, self.shape)
        left = torch.sigmoid(-f)
        if self.bound is None:
            return torch.sigmoid(f), left, None
        bound = _wide(self.bound).view(self.shape)
        left = torch.sigmoid(-bound) * left
        return torch.sigmoid(bound) + torch.sigmoid(-bound) * torch.sigmoid(f), left, None


@dataclass(frozen=True)
class PrefixSoftmax(CoupledDecay):
    """decay_t = s_t-1 / s_t with s_t = sum_{j <= t} exp(W x_j) (LightNet, arXiv 2405.21022).

    What is written with weight 1 - decay_t = exp(W x_t) / s_t then has, at any later time, its share in a softmax over
    all tokens so far.
    """

    def build(self, width: int, heads: int, channels: int) -> CoupledDecayModule:
        return _PrefixSoftmax(width, heads, channels)


class _PrefixSoftmax(CoupledDecayModule):
    """Its past is the logarithm of the sum."""

    def __init__(self, width: int, heads: int, channels: int):
        super().__init__()
        self.shape = (heads, channels)
        self.linear = nn.Linear(width, heads * channels, bias=False)

    def fresh(self) -> Tensor:
        weight = _wide(self.linear.weight)
        return torch.full((1, *self.shape), EMPTY, dtype=weight.dtype, device=weight.device)

    def forward(self, x: Tensor, past: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        assert past is not None
        return prefix_softmax(_wide(self.linear(x)).unflatten(-1, self.shape), past, lengths)


def prefix_softmax(scores: Tensor, past: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """scores (B, T, ...), the logarithm of the sum of exponentials before them (B, ...) -> (s_t-1 / s_t, exp(score_t)
    / s_t, the logarithm after the last token of each row)."""
    wide = scores.to(past.dtype)
    total = torch.logaddexp(past[:, None], torch.logcumsumexp(wide, 1))
    ahead = torch.cat([past[:, None], total[:, :-1]], 1) - wide
    after = total[:, -1]
    if lengths is not None:
        ends = (lengths - 1).clamp(min=0).view(-1, *[1] * (total.ndim - 1)).expand(-1, 1, *total.shape[2:])
        seen = (lengths > 0).view(-1, *[1] * (past.ndim - 1))
        after = torch.where(seen, total.gather(1, ends)[:, 0], past)
    return torch.sigmoid(ahead), torch.sigmoid(-ahead), after


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()
