"""Random associations to try a memory with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import InvalidType, expect

Kind = Literal["unit", "orthogonal", "sign", "sparse", "message"]
KINDS = ("unit", "orthogonal", "sign", "sparse", "message")


@dataclass(frozen=True)
class Patterns:
    """Random keys, and the values that go with them.

    kind: "unit": independent directions, of length 1; "orthogonal": the same, but every key_dim keys in a row are
    orthogonal; "sign": coordinates of +1 and -1; "sparse": `active` ones among zeros; "message": `active` clusters of
    equal size with a single one in each.
    active: for the last two; None for about log2 of the coordinates ("sparse"). same: each value is its own key
    (auto-association); otherwise values are drawn like keys.
    """

    kind: Kind = "unit"
    active: int | None = None
    same: bool = False

    def __post_init__(self) -> None:
        expect(self.kind in KINDS, f"Patterns(kind=) is one of {', '.join(KINDS)}; got {self.kind!r}.")
        sparse = self.kind in ("sparse", "message")
        if isinstance(self.active, bool) or not isinstance(self.active, int | None):
            raise InvalidType(f"Patterns(active=) is a whole number; got {self.active!r}.")
        expect(
            self.kind != "message" or self.active is not None,
            'Patterns("message", active=) is a number of clusters; it was left out.',
        )
        expect(
            self.active is None or (sparse and self.active >= 1),
            'Patterns(active=) is at least 1 and belongs to "sparse" and "message"; '
            f"got {self.active} with {self.kind!r}.",
        )

    def draw(self, count: int, key_dim: int, value_dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` keys (count, key_dim) and values (count, value_dim) in float64. Raises InvalidValue for sizes that
        such patterns cannot have."""
        keys = self._vectors(count, key_dim, generator)
        if not self.same:
            return keys, self._vectors(count, value_dim, generator)
        expect(
            key_dim == value_dim,
            f"patterns that recall themselves need value_dim = key_dim; got {value_dim} and {key_dim}.",
        )
        return keys, keys

    def cues(self, keys: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """The keys as they come back: with a Gaussian of expected squared length noise^2 added ("unit", "orthogonal"),
        with that share of the coordinates turned round ("sign"), or of the ones erased ("sparse", "message")."""
        if not noise:
            return keys
        if self.kind in ("unit", "orthogonal"):
            size = keys.shape[-1] ** 0.5
            return keys + noise / size * torch.randn(keys.shape, generator=generator, dtype=keys.dtype)
        chance = torch.rand(keys.shape, generator=generator, dtype=keys.dtype)
        if self.kind == "sign":
            wrong = round(noise * keys.shape[-1])
            return torch.where(chance.argsort(-1).argsort(-1) < wrong, -keys, keys)
        erased = (noise * keys.sum(-1, keepdim=True)).round()
        order = chance.masked_fill(keys == 0, 2.0).argsort(-1).argsort(-1)  # the ones first, in random order
        return torch.where(order < erased, 0.0, keys)

    def _vectors(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        if self.kind == "unit":
            x = torch.randn(count, size, generator=generator, dtype=torch.float64)
            return torch.nn.functional.normalize(x, dim=-1)
        if self.kind == "orthogonal":
            bases = -(-count // size)
            x = torch.randn(bases, size, size, generator=generator, dtype=torch.float64)
            return torch.linalg.qr(x).Q.flatten(0, 1)[:count]
        if self.kind == "sign":
            return 2.0 * torch.randint(0, 2, (count, size), generator=generator).double() - 1
        if self.kind == "sparse":
            active = self.active or max(1, round(math.log2(size)))
            expect(active <= size, f"patterns of {size} coordinates cannot have {active} ones.")
            chance = torch.rand(count, size, generator=generator, dtype=torch.float64)
            return (chance.argsort(-1).argsort(-1) < active).double()
        assert self.active is not None
        expect(
            size % self.active == 0,
            f"patterns of {size} coordinates cannot be shared between {self.active} clusters of equal size.",
        )
        units = size // self.active
        chosen = torch.randint(0, units, (count, self.active), generator=generator)
        return torch.nn.functional.one_hot(chosen, units).double().flatten(-2)
