"""Decays inside chunks as factors of readers and writers, without a matrix of decays for each channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_DECAY, LEAST_PRODUCT = 1e-3, 1e-30
"""Of one token and of a whole chunk: down to there one may divide by decays. The gradient by a decay is off by rounding
over the decay, and the inverse of the product must be far from overflow."""


class Decayed(NamedTuple):
    """What becomes of readers and writers (..., C, K) in a chunk. w_ts is the product of the decays after token s
    and up to t, with t itself where the reader comes after forgetting.

    scores: one (..., C, C) a kind of reader, [t, s] = sum_k x_tk y_sk w_tsk for t >= s; elsewhere it means nothing.
    readers: x_t times the decays from the chunk's start on. writers: y_s times those to its end. end: all decays of
    the chunk, (..., 1, K or 1).
    """

    scores: list[Tensor]
    readers: list[Tensor]
    writers: Tensor
    end: Tensor


def decayed(readers: list[tuple[Tensor, bool]], writers: Tensor, decay: Tensor | None) -> Decayed:
    """readers: each with whether it comes after its own token's decay. decay: (..., C, K), (..., C, 1) or None for 1. C
    is a power of two."""
    if decay is None:
        asked = [x for x, _ in readers]
        return Decayed([x @ writers.mT for x in asked], asked, writers, torch.ones_like(writers[..., :1, :1]))
    return _by_division(readers, writers, decay) if _divisible(decay) else _by_halves(readers, writers, decay)


def _divisible(decay: Tensor) -> bool:
    """Whether all decays are far enough from 0. Compiled code cannot look at values."""
    if torch.compiler.is_compiling():
        return False
    with torch.no_grad():
        return bool(decay.amin() >= LEAST_DECAY) and bool(decay.prod(-2).amin() >= LEAST_PRODUCT)


def _by_division(readers: list[tuple[Tensor, bool]], writers: Tensor, decay: Tensor) -> Decayed:
    """w_ts = c_t / c_s with c_t the product up to t: a factor for each of the two tokens."""
    log_decay = decay.log()
    total = log_decay.cumsum(-2)
    since = {True: total.exp(), False: (total - log_decay).exp()}
    end = since[True][..., -1:, :]
    asked = [x * since[after] for x, after in readers]
    sent = writers * (-total).exp()
    return Decayed([x @ sent.mT for x in asked], asked, sent * end, end)


def _by_halves(readers: list[tuple[Tensor, bool]], writers: Tensor, decay: Tensor) -> Decayed:
    """The later half of a block reads the earlier one by one product, to which the reader brings the decays since the
    middle and the writer those up to it. Blocks are put together from single tokens, (..., blocks, tokens, K)."""
    size = decay.shape[-2]
    asked = [x.unflatten(-2, (size, 1)) for x, _ in readers]
    sent = writers.unflatten(-2, (size, 1))
    up_to = decay.unflatten(-2, (size, 1))
    before = until = torch.ones_like(up_to)
    scores = [(x * sent).sum(-1, keepdim=True) for x in asked]
    while up_to.shape[-3] > 1:
        (one, two), (before_one, before_two), (until_one, until_two) = (_pairs(x) for x in (up_to, before, until))
        first, second = one[..., -1:, :], two[..., -1:, :]
        earlier = (_pairs(sent)[0] * until_one).mT
        for i, (_, after) in enumerate(readers):
            upper, lower = _pairs(scores[i])
            across = (_pairs(asked[i])[1] * (two if after else before_two)) @ earlier
            blocks = torch.cat([upper, torch.zeros_like(upper)], -1), torch.cat([across, lower], -1)
            scores[i] = torch.cat(blocks, -2)
        up_to = torch.cat([one, first * two], -2)
        before = torch.cat([before_one, first * before_two], -2)
        until = torch.cat([until_one * second, until_two], -2)
        asked, sent = [torch.cat(_pairs(x), -2) for x in asked], torch.cat(_pairs(sent), -2)
    up_to, before, until = (x.squeeze(-3) for x in (up_to, before, until))
    reading = [x * (up_to if after else before) for x, after in readers]
    return Decayed([x.squeeze(-3) for x in scores], reading, writers * until, up_to[..., -1:, :])


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2n, C, K) -> the first and the second of each pair, (..., n, C, K)."""
    one, two = x.unflatten(-3, (-1, 2)).unbind(-3)
    return one, two
