"""Keep what comes back: entries that have been silent for less than their longest gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retain.base import Policy, check_policy, latest


@dataclass(frozen=True)
class LazyEviction(Policy):
    """LazyEviction (arXiv 2506.15969). An entry is activated by a weight above `threshold`; with `last` the token of
    its last activation and `gap` the longest time between two of them,

        worth = 2 sigmoid(-(now - last) / gap) + preference(gap)

    with the limit gap -> 0 for entries that never came back: 1 if activated just now, else 0. Every `period` tokens
    (the paper's observation window) the budget is restored.

    preference: the paper's second term, of which two readings exist. "printed": 2 sigmoid(-1 / gap), which grows with
    the gap; "described": 2 sigmoid(-gap / period), which favours what comes back often, as the paper's text has it;
    None: no such term. It is 0 for entries that never came back.
    """

    budget: int = 256
    period: int = 32
    sinks: int = 0
    recent: int = 32
    threshold: float = 1e-4
    preference: Literal["printed", "described"] | None = "described"
    statistics = ("last", "gap")
    group = "max"

    def __post_init__(self) -> None:
        check_policy(self)
        expect(self.threshold >= 0, f"LazyEviction(threshold=) is a weight, at least 0; got {self.threshold}.")
        known = ("printed", "described", None)
        expect(
            self.preference in known,
            f'LazyEviction(preference=) is "printed", "described" or None; got {self.preference!r}.',
        )

    def start(self, now: Tensor) -> Mapping[str, Tensor]:
        return {"last": now, "gap": 0.0 * now}

    def observe(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        last, gap = statistics["last"], statistics["gap"]
        active = weights > self.threshold
        return {
            "last": torch.where(active, now.to(last.dtype), last),
            "gap": torch.where(active, torch.maximum(gap, now - last), gap),
        }

    def observe_several(
        self, statistics: Mapping[str, Tensor], weights: Tensor, position: Tensor, now: Tensor
    ) -> Mapping[str, Tensor]:
        active = weights > self.threshold
        last = latest(active, statistics["last"], now)
        before = torch.cat([statistics["last"][:, :, None], last[:, :, :-1]], 2)
        gaps = torch.where(active, now - before, 0.0).amax(2)
        return {"last": last[:, :, -1], "gap": torch.maximum(statistics["gap"], gaps)}

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        last, gap = statistics["last"], statistics["gap"]
        came_back, silence = gap > 0, now - last
        known = torch.where(came_back, gap, 1.0)
        worth = torch.where(came_back, 2 * torch.sigmoid(-silence / known), (silence == 0).to(gap.dtype))
        if self.preference is None:
            return worth
        share = -1 / known if self.preference == "printed" else -gap / self.period
        return worth + torch.where(came_back, 2 * torch.sigmoid(share), 0.0)
