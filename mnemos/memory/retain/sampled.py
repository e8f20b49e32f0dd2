"""Keep a random sample: the baseline that a policy has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.retain.base import Policy, check_policy

BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampled(Policy):
    """An entry is worth a number that only its position and `seed` decide: what is kept is a uniform random sample of
    the past (priority sampling), the same for all rows and heads, however the sequence is cut.

    The number is a multiplicative hash of position + seed in 32 bits.
    """

    budget: int = 256
    period: int = 1
    sinks: int = 0
    recent: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_policy(self)
        expect(0 <= self.seed < 2**31, f"Sampled(seed=) must lie in [0, 2^31); got {self.seed}.")

    def worth(self, statistics: Mapping[str, Tensor], position: Tensor, now: Tensor, keys: Tensor) -> Tensor:
        x = ((position + self.seed + 1) * 0x9E3779B1) & BITS
        for factor in (0x85EBCA6B, 0x42B2AE35):
            x = ((x ^ (x >> 15)) * factor) & BITS
        return (x ^ (x >> 16)).double()
