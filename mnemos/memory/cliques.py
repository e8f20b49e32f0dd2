"""Clique networks: messages as cliques of linked units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Controls
from mnemos.memory.patterns import Patterns
from mnemos.memory.willshaw import linked, met
from mnemos.state import State


@dataclass(frozen=True)
class Cliques(AnyMemory):
    """The clique network of Gripon and Berrou (2011): a message is one unit in each of `clusters` clusters, and its
    units are linked with each other.

        write:  W_ij <- 1 for i in [v > 0], j in [k > 0] of different clusters      (v = k: a clique)
        read:   a = [q > 0];  `steps` times:  score_i = stay a_i + sum over clusters of max_{j in cluster} W_ij a_j,
                a_i = 1 where score_i > 0 is the largest in its cluster
        o = a

    Equal scores win together. Clusters of the cue without a unit are erased, and filled in. After P random messages of
    clusters of l units a share 1 - (1 - 1/l^2)^P of the links is set. Writing a message again changes nothing.

    key_dim and value_dim are equal and a multiple of clusters. Its state: `links` (B, H, V, K) bool. Answers are 0 or
    1, so no gradient goes through them.
    """

    clusters: int = 8
    steps: int = 4
    stay: float = 1.0

    def __post_init__(self) -> None:
        expect(self.clusters >= 2, f"Cliques(clusters=) is at least 2; got {self.clusters}.")
        expect(self.steps >= 1, f"Cliques(steps=) is at least 1; got {self.steps}.")
        expect(math.isfinite(self.stay) and self.stay >= 0, f"Cliques(stay=) is at least 0; got {self.stay}.")

    @property
    def differentiable(self) -> bool:
        return False

    @property
    def patterns(self) -> Patterns:
        return Patterns("message", active=self.clusters, same=True)

    @property
    def kept(self) -> str:
        return f"binary links of units in {self.clusters} clusters"

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        expect(
            key_dim == value_dim and key_dim % self.clusters == 0,
            f"Cliques(clusters={self.clusters}) needs key_dim = value_dim, a multiple of the clusters; got {key_dim} "
            f"and {value_dim}.",
        )
        return {}

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return (2.0 * self.steps + 1) * key_dim * value_dim

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
        """No link set; `dtype` means nothing here. Raises InvalidValue for any weights, and unless key_dim and
        value_dim are equal and a multiple of clusters."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a clique network starts empty and takes no weights.")
        self.weight_shapes(key_dim, value_dim)
        links = torch.zeros(1, heads, value_dim, key_dim, dtype=torch.bool, device=device)
        return State(self.owner(heads, key_dim, value_dim), {"links": links}).expand(batch)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        return self._write_all(state, k[:, None], v[:, None], controls)

    def _write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        cluster = torch.arange(k.shape[-1], device=k.device) // (k.shape[-1] // self.clusters)
        return linked(state, met(k, v) & (cluster[:, None] != cluster))

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32  # sums of small whole numbers
        links = state["links"].to(dtype).unflatten(-1, (self.clusters, -1))  # (B, H, V, c, l)
        x = q.transpose(1, 2) if several else q[..., None, :]
        active = (x > 0).to(dtype)  # (B, H, n, K)
        for _ in range(self.steps):
            by_cluster = active.unflatten(-1, (self.clusters, -1))
            support = (torch.einsum("bhncl,bhvcl->bhncv", by_cluster, links) > 0).to(dtype).sum(-2)
            score = (support + self.stay * active).unflatten(-1, (self.clusters, -1))
            active = ((score == score.amax(-1, keepdim=True)) & (score > 0)).to(dtype).flatten(-2)
        out = active.to(q.dtype)
        return out.transpose(1, 2) if several else out[..., 0, :]

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)
