"""Decays of which some never forget and some always do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidValue, expect, expect_kind
from mnemos.layers.controls import ControlRule


@dataclass(frozen=True)
class Polarised(ControlRule):
    """Per head: the decays of `ones` channels are 1 for ever, then come those of `rule`, then `zeros` that are 0.

    A channel with decay 1 sums up the whole past, so that influence does not fade exponentially; one with decay 0 holds
    the present token alone, so that depth does not smooth tokens into each other (arXiv 2501.00658). The zeros are
    exact; the authors' program has exp(-100 dt) in their place, which is far from 0 for small steps dt.

    For decays per channel. A memory has as many channels as keys have; what is fixed here is taken from them.
    """

    rule: ControlRule
    ones: int = 1
    zeros: int = 1

    def __post_init__(self) -> None:
        expect_kind(self.rule, ControlRule, "rule", "LowRankDecay()")
        expect(
            self.ones >= 0 and self.zeros >= 0,
            f"Polarised(ones=, zeros=) are numbers of channels of at least 0; got {self.ones} and {self.zeros}.",
        )

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.rule.bounds
        return min(low, 0.0) if self.zeros else low, max(high, 1.0) if self.ones else high

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        fixed = self.ones + self.zeros
        if channels is None or channels <= fixed:
            given = "one number a head" if channels is None else f"{channels} channels"
            raise InvalidValue(
                f"Polarised fixes {fixed} channels of a decay per channel and leaves the others to {self.rule}; "
                f'here are {given}. Use Decay(per="channel"), and wider keys or fewer heads.'
            )
        return _Polarised(self, self.rule.build(width, heads, channels - fixed))


class _Polarised(nn.Module):
    def __init__(self, rule: Polarised, between: nn.Module):
        super().__init__()
        self.ones, self.zeros, self.between = rule.ones, rule.zeros, between

    def forward(self, x: Tensor) -> Tensor:
        value = self.between(x)
        return torch.cat([F.pad(value, (self.ones, 0), value=1.0), value.new_zeros(*value.shape[:-1], self.zeros)], -1)

    def start_at_(self, value: float) -> None:
        """The decays that are not fixed start at `value` for every token."""
        self.between.start_at_(value)  # pyright: ignore[reportCallIssue]
