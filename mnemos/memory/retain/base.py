"""The interface of a retention of entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect


class Retain(Declaration):
    """Which of the entries written so far are kept."""

    @property
    def capacity(self) -> int | None:
        """The most entries it keeps; None without bound."""
        raise NotImplementedError


class ByPosition(Retain):
    """A retention that looks at positions alone."""

    def kept(self, count: int) -> Sequence[int]:
        """The positions that are kept after `count` tokens, in order."""
        raise NotImplementedError


class Policy(Retain):
    """A budget of entries a head, and a rule for which of them are worth keeping.

    Every `period` tokens, after the new entry has been written and before the token reads, each head drops its least
    worthy entries until `budget` of them are left; between, there are up to period - 1 more. The first `sinks` tokens
    and the last `recent` ones (the newest included) are never dropped. Of equally worthy entries the older one goes.
    What a rule knows of its entries are its statistics, numbers of each entry that it updates after every read.
    No gradient flows through any of this.

    A policy gives `statistics`, `observe` and `worth`, and its own options beside the common ones. Axes: B rows, H
    heads of keys, N places; an entry's `position` is the number of its token.
    """

    budget: int
    period: int = 1
    sinks: int = 0
    recent: int = 1

    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of what it keeps of every entry."""

    group: ClassVar[Literal["max", "mean"]] = "mean"
    """How the weights of the query heads that share a head of keys become one."""

    @property
    def capacity(self) -> int:
        return self.budget + self.period - 1

    def start(self, now: Tensor) -> Mapping[str, Tensor]:
        """The statistics of an entry written at position `now`, each of `now`'s shape; zeros unless a policy says
        otherwise."""
        return dict.fromkeys(self.statistics, 0.0 * now)

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        """The statistics (B, H, N) after the token at position `now` (B, 1, 1) has read with `weights` (B, H, N)."""
        return statistics

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        """`observe` for n tokens one after the other, weights (B, H, n, N) at positions `now` (B, 1, n, 1). An entry
        that a token does not see, or that is written later, has the weight 0 there. A policy may have a closed form."""
        for i, row in enumerate(weights.unbind(2)):
            told = self.observe(statistics, row, position, now[:, :, i])
            written = position <= now[:, :, i]
            statistics = {name: torch.where(written, told[name], statistics[name]) for name in self.statistics}
        return statistics

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        """(B, H, N): the lowest are dropped first. keys (B, H, N, K); `position`, `now` as above."""
        raise NotImplementedError


def in_steps(worth: Tensor) -> Tensor:
    """A worth in steps of 1/4096. The keys of equal tokens differ by rounding alone, which must not decide which of
    them goes: of equally worthy ones the older one does."""
    return (4096 * worth).round()


def latest(active: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """The last token at which each entry was active, up to each of n: active (B, H, n, N), before (B, H, N) and
    `now` (B, 1, n, 1) -> (B, H, n, N)."""
    times = torch.where(active, now.to(before.dtype), -torch.inf)
    return torch.maximum(times.cummax(2).values, before[:, :, None])


def check_policy(policy: Policy) -> None:
    """Raises for common options that cannot be."""
    name = type(policy).__name__
    expect(policy.period >= 1, f"{name}(period=) is a number of tokens of at least 1; got {policy.period}.")
    expect(policy.sinks >= 0, f"{name}(sinks=) is a number of entries, at least 0; got {policy.sinks}.")
    expect(policy.recent >= 1, f"{name}(recent=) counts the newest entry, so at least 1; got {policy.recent}.")
    expect(
        policy.budget >= policy.sinks + policy.recent,
        f"{name}(budget=) must hold the {policy.sinks} sinks and the {policy.recent} recent entries, which are never "
        f"dropped; got {policy.budget}.",
    )
