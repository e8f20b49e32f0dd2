"""The interface of a read rule: how a key-value memory answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.patterns import Patterns


class Read(Declaration):
    """How queries are answered from the kept entries, in three steps:

        s_j = score(q, k_j),   p = weigh(s),   o = answer(p, k, v)

    A rule gives the steps in which it differs from softmax attention, or all of `respond` where its steps are others.
    Axes: B rows, H heads of keys, n queries (those of a group of heads one behind the other), N entries.

        q (B, H, n, K), keys (B, H, N, K), values (B, H, N, V)
        seen (B or 1, H or 1, n or 1, N): which entries a query may use; the others must not matter at all
        lag (B or 1, H or 1, n or 1, N): how many tokens ago an entry was written, 0 for the newest
        controls: what the rule declares, one value a query: (B, H, n) or (B, H, n, count)

    What it stores with the entries are further channels of `values`, behind the V of the value itself.
    """

    scale: float | None = None
    """Factor of the scores; None for 1/sqrt(key_dim)."""

    rotary: float | None = None
    """Base of rotary positions; None for no positions. Queries and keys arrive turned."""

    positions: Literal["kept", "original"] = "kept"
    """Whether rotary positions count the kept entries, or all tokens there were. A rule may have further ways, which
    start from the latter."""

    mask: Mask | None = None
    """Which of the kept entries a query looks at, by their positions; None for all."""

    plain: bool = False
    """Fact: it is the softmax average of the values and nothing else."""

    numbered: bool = False
    """Whether it asks where its queries stand. Then `controls` holds their "position" too, (B or 1, H or 1, n or 1)."""

    differentiable: bool = True
    """Fact: gradients pass from the answers to keys or values."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """What it needs from outside with every query."""
        return ()

    @property
    def stored(self) -> tuple[Control, ...]:
        """What it needs from outside with every token that is written, to be kept with the entry: numbers per head, or
        several of them (per "count")."""
        return ()

    @property
    def patterns(self) -> Patterns:
        """The kind of keys and values that it is made for, where it is made for one."""
        return Patterns()

    def check_sizes(self, key_dim: int, value_dim: int) -> None:
        """Raises InvalidValue for keys and values of widths that it cannot work with."""

    def pair_flops(self, key_dim: int, value_dim: int) -> float:
        """Floating point operations for one query and one entry, to leading order."""
        return 2.0 * (key_dim + value_dim)

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Answers (B, H, n, V), and the weights (B, H, n, N) that the entries got."""
        weights = self.weigh(self.score(q, keys, lag, controls), seen, lag, controls)
        return self.answer(weights, q, keys, values, lag, controls), weights

    def score(self, q: Tensor, keys: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """(B, H, n, N), whatever for entries that are not seen."""
        return (self.scale or 1 / math.sqrt(q.shape[-1])) * (q @ keys.mT)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """(B, H, n, N): zero for entries that are not seen."""
        return masked_softmax(scores, seen)

    def answer(
        self,
        weights: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lag: Tensor,
        controls: Mapping[str, Tensor],
    ) -> Tensor:
        """(B, H, n, V)."""
        return weights @ values


def masked_softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """The softmax over the entries that are seen; all zero where none is, its gradient too."""
    none = ~seen.any(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(~(seen | none), -torch.inf), -1).masked_fill(none, 0)


def highest(scores: Tensor, open_to: Tensor, lag: Tensor, number: int) -> Tensor:
    """Which of the entries that a query is `open_to` have its `number` highest scores, (B, H, n, N) bool; of equal
    ones (to six decimals: the keys of equal tokens differ by rounding alone, which must not decide) the newest. No
    gradient flows through the choice."""
    ranked = scores.detach().round(decimals=6).masked_fill(~open_to, -torch.inf)
    newest_first = lag[..., :1, :].argsort(-1).expand_as(scores)
    best = ranked.gather(-1, newest_first).sort(dim=-1, descending=True, stable=True).indices[..., :number]
    best = newest_first.gather(-1, best)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, torch.ones_like(best, dtype=torch.bool))
    return chosen & open_to
