"""Codes for tokens of unknown sources: the KT estimator, and the weighting of all partitions in time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect


def krichevsky_trofimov(tokens: Tensor, symbols: int) -> Tensor:
    """What the KT estimator expects after each token of one source that never changes.

        p(s) = (n_s + 1/2) / (n + symbols / 2)        n_s of the n tokens so far were s

    tokens: (B, T) in [0, symbols). Gives log-probabilities (B, T, symbols), float64, natural; before the first token
    all symbols are equally likely. On two symbols its code of n tokens is at most log2(n) / 2 + 1 bits longer than that
    of the best fixed source. Raises InvalidValue for tokens out of range.
    """
    seen = _one_hot(tokens, symbols, tokens.shape[1] + 1)
    return _estimates(seen)[:, 1:]


def partition_tree_weighting(tokens: Tensor, symbols: int) -> Tensor:
    """What partition tree weighting over the KT estimator expects after each token (arXiv 1211.0587).

        PTW_0 = KT;   PTW_d(x_1 ... x_n) = 1/2 KT(x_1 ... x_n) + 1/2 PTW_(d-1)(first 2^(d-1)) PTW_(d-1)(the rest)

    d is the least with 2^d > T. tokens: (B, T) in [0, symbols). Gives log-probabilities (B, T, symbols), float64,
    natural; before the first token all symbols are equally likely. Its code is longer than that of the KT estimator
    started anew in each part of any binary partition of the time by at most one bit for each node of that partition's
    tree above depth d. Time and memory O(T log T). Raises InvalidValue for tokens out of range.
    """
    length = tokens.shape[1]
    depth = length.bit_length()
    seen = _one_hot(tokens, symbols, 2**depth)
    # weighted[b, t, s]: the log-probability, in the block of this level that holds t, of its tokens before t and then s
    weighted = torch.full_like(seen, -math.log(symbols))
    for level in range(1, depth + 1):
        halves = (len(seen), -1, 2, 2 ** (level - 1))
        first_half = (weighted * seen).sum(-1).view(halves)[:, :, 0, -1]
        split = weighted.view(*halves, symbols).clone()
        split[:, :, 1] += first_half[..., None, None]
        blocks = (-1, 2**level, symbols)
        inside, parts = seen.view(blocks), split.view(blocks)
        one = _estimates(inside)
        said = (one * inside).sum(-1, keepdim=True)
        weighted = torch.logaddexp(said.cumsum(1) - said + one, parts).view_as(seen) - math.log(2)
    return weighted[:, 1 : length + 1].log_softmax(-1)


def _one_hot(tokens: Tensor, symbols: int, length: int) -> Tensor:
    """Float64 (B, length, symbols), filled up with the symbol 0."""
    expect(symbols >= 2, f"a code needs at least 2 symbols; got {symbols}.")
    inside = tokens.numel() == 0 or (int(tokens.min()) >= 0 and int(tokens.max()) < symbols)
    expect(inside, f"the tokens of a code with {symbols} symbols lie in [0, {symbols}); some here do not.")
    return F.one_hot(F.pad(tokens, (0, length - tokens.shape[1])), symbols).double()


def _estimates(seen: Tensor) -> Tensor:
    """The KT estimator's log-probabilities before each token of (B, T, symbols)."""
    counts = seen.cumsum(1) - seen + 0.5
    return counts.log() - counts.sum(-1, keepdim=True).log()
