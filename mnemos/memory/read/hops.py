"""Reading several times, each time with what the last time found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemos.errors import expect, expect_kind
from mnemos.memory.control import Control
from mnemos.memory.mask import Mask
from mnemos.memory.read.base import Read
from mnemos.memory.read.softmax import Softmax


@dataclass(frozen=True)
class Hops(Read):
    """The hops of end-to-end memory networks (arXiv 1503.08895) with the same entries at every hop: from u = q,

        o = read(u, entries),   u <- carry * u + o          `hops` times;   the answer is the last u

    The control `carry`, one number a key channel with the query, is the diagonal of the paper's H. (A diagonalisable H
    is diagonal in another basis, which the learned maps around the memory take up.) One hop with a carry of 0 is `read`
    itself. The queries of later hops are made of values, so keys and values have the same width.

    hops: at least 1. read: any read rule without rotary positions, asked with its own controls at every hop. Policies
    look at the mean of the hops' weights.
    """

    hops: int = 3
    read: Read = field(default_factory=Softmax)

    def __post_init__(self) -> None:
        expect(self.hops >= 1, f"Hops(hops=) must be at least 1; got {self.hops}.")
        expect_kind(self.read, Read, "read", "Softmax(scale=1.0)")
        expect(not isinstance(self.read, Hops), "Hops(read=) is one hop; ask for more of them with hops=.")
        expect(
            self.read.rotary is None,
            f"Hops(read=) asks with values, which have no rotary position; got {self.read}. Use Relative.",
        )

    @property
    def mask(self) -> Mask | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.read.mask

    @property
    def numbered(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.read.numbered

    def pair_flops(self, key_dim: int, value_dim: int) -> float:
        return self.hops * self.read.pair_flops(key_dim, value_dim)

    @property
    def controls(self) -> tuple[Control, ...]:
        carry = Control("carry", "channel", -math.inf, math.inf, "factor of the query from hop to hop")
        return (carry, *self.read.controls)

    def check_sizes(self, key_dim: int, value_dim: int) -> None:
        expect(
            key_dim == value_dim,
            f"Hops asks with what it has read, so key_dim and value_dim are the same; got {key_dim} and {value_dim}.",
        )

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        u, carry, looked = q, controls["carry"].to(q.dtype), []
        for _ in range(self.hops):
            found, weights = self.read.respond(u, keys, values, seen, lag, controls)
            u = carry * u + found.to(u.dtype)
            looked.append(weights)
        return torch.where(seen.any(-1, keepdim=True), u, 0.0), torch.stack(looked).mean(0)
