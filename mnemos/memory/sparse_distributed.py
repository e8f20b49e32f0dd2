"""Sparse distributed memory: counters at hard locations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Controls
from mnemos.memory.patterns import Patterns
from mnemos.state import State

ALL = 16
"""Up to this many bits every address may have its own location."""


@dataclass(frozen=True)
class SparseDistributed(AnyMemory):
    """Kanerva's sparse distributed memory (1988): values are added to counters at all hard locations near the key.

        a(x)_m = [ the signs of x differ from address A_m in at most `radius` bits ]
        write:  C_m <- C_m + a(k)_m v          read:  o = sum_m a(q)_m C_m, or its sign

    A value thus counts in a read with the number of locations near both keys, on average the intersection of two
    circles (`circle_intersection`), by which attention approximates it (arXiv 2111.05498). Writing -v takes v back
    exactly. The addresses are random bits that `seed` determines; with locations=None every address of key_dim bits is
    one. It is a Hebbian memory of the features a(x), and runs as one.

    locations: how many, at least 1; None for all 2^key_dim, up to 16 bits. answer: "sign" of the counters or their
    "sum". Signs and addresses have no gradient; with "sum" values do. Its state: `matrix` (B, H, V, locations).
    """

    locations: int | None = 1024
    radius: int = 24
    answer: Literal["sign", "sum"] = "sign"
    seed: int = 0

    def __post_init__(self) -> None:
        expect(
            self.locations is None or self.locations >= 1,
            f"SparseDistributed(locations=) is at least 1, or None for every address; got {self.locations}.",
        )
        expect(self.radius >= 0, f"SparseDistributed(radius=) is a number of bits of at least 0; got {self.radius}.")
        expect(self.answer in ("sign", "sum"), f'SparseDistributed(answer=) is "sign" or "sum"; got {self.answer!r}.')

    @property
    def differentiable(self) -> bool:
        return self.answer == "sum"

    @property
    def patterns(self) -> Patterns:
        return Patterns("sign")

    @property
    def kept(self) -> str:
        return f"counters at {'all' if self.locations is None else self.locations} addresses"

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        expect(
            self.locations is not None or key_dim <= ALL,
            f"SparseDistributed(locations=None) has 2^key_dim locations, for keys of up to {ALL} bits; got {key_dim}. "
            "Give a number of locations.",
        )
        return {}

    def size(self, key_dim: int) -> int:
        """Its number of locations."""
        return 2**key_dim if self.locations is None else self.locations

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 4.0 * self.size(key_dim) * (key_dim + value_dim)

    def init(
        self,
        batch: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        weights: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """All counters at 0. Raises InvalidValue for any weights, and for too long keys without a number of
        locations."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a sparse distributed memory starts at zero and takes no weights.")
        self.weight_shapes(key_dim, value_dim)
        counters = torch.zeros(1, heads, value_dim, self.size(key_dim), dtype=dtype, device=device)
        return State(self.owner(heads, key_dim, value_dim), {"matrix": counters}).expand(batch)

    def active(self, x: Tensor) -> Tensor:
        """a(x), 1 at the locations near x and 0 elsewhere: (..., key_dim) -> (..., locations)."""
        bits = x.shape[-1]
        signs = torch.where(x > 0, 1.0, -1.0).to(x.dtype)
        near = signs @ (2.0 * self.addresses(bits, x.device).to(x.dtype) - 1).mT
        return (near >= bits - 2 * self.radius).to(x.dtype)

    def addresses(self, key_dim: int, device: torch.device | str | None = None) -> Tensor:
        """The bits of all locations, (locations, key_dim) in 0 and 1."""
        location = torch.arange(self.size(key_dim), device=device)[:, None]
        bit = torch.arange(key_dim, device=device)
        if self.locations is None:
            return (location >> bit) & 1
        return scrambled((location * key_dim + bit) * 2 + 1 + scrambled(torch.tensor(self.seed, device=device))) & 1

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        return self._write_all(state, k[:, None], v[:, None], controls)

    def _write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        held = state["matrix"]
        new = torch.einsum("bnhv,bnhm->bhvm", v.to(held.dtype), self.active(k.to(held.dtype)))
        if torch.is_grad_enabled():
            return state.successor(matrix=held + new)
        state.spend()
        return state.successor(matrix=held.add_(new))

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        held, several = state["matrix"], q.ndim == 4
        near = self.active(q.to(held.dtype))
        out = (near.transpose(1, 2) if several else near[..., None, :]) @ held.mT
        out = (out.transpose(1, 2) if several else out[..., 0, :]).to(q.dtype)
        return out.sign() if self.answer == "sign" else out

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)


def scrambled(x: Tensor) -> Tensor:
    """Whole numbers mixed beyond recognition, the same on every device: rounds of multiplication modulo 2^64 and of
    folding the upper bits onto the lower."""
    for factor in (-7046029254386353131, -4417276706812531889, 1609587929392839161):
        x = x * factor
        x = x ^ ((x >> 29) & 0x7FFFFFFFF)
    return x
