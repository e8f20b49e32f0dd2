"""How near a query is to centroids that follow the queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.controls import ControlRule


@dataclass(frozen=True)
class Centroids(ControlRule):
    """q . m_c for every centroid m_c of the head: online spherical k-means (Routing Transformer, arXiv 2003.05997).

    The centroids are buffers of the layer and start at random, with mean 0 and variance 1 over their channels. No
    gradient reaches them, and none flows back through the result. They stand still except under `followed`, where
    after each pass, with n_c tokens nearest to c and s_c the sum of their queries,

        N_c <- decay N_c + (1 - decay) n_c,    S_c <- decay S_c + (1 - decay) s_c,    m_c = S_c / smooth(N)_c

    smooth(N)_c = (N_c + 1e-5) / (sum N + 1e-5 count) sum N. commitment: factor of the loss mean_t |q_t - m_c(t)|^2, in
    which the centroids are constants, that draws queries to them.
    """

    decay: float = 0.999
    commitment: float = 1e-4
    of = "query"

    def __post_init__(self) -> None:
        expect(0 <= self.decay < 1, f"Centroids(decay=) lies in [0, 1); got {self.decay}.")
        expect(self.commitment >= 0, f"Centroids(commitment=) is a factor of at least 0; got {self.commitment}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is not None, "Centroids gives a number for each cluster; one a head is Sigmoid's.")
        assert channels is not None
        return CentroidAffinity(self, width // heads, heads, channels)


class CentroidAffinity(nn.Module):
    """The module that `Centroids` describes."""

    centroids: Tensor
    number: Tensor
    total: Tensor

    def __init__(self, rule: Centroids, key_dim: int, heads: int, count: int):
        super().__init__()
        self.rule = rule
        start = F.layer_norm(torch.randn(heads, count, key_dim), (key_dim,))
        self.register_buffer("centroids", start)
        self.register_buffer("number", torch.ones(heads, count))
        self.register_buffer("total", start.clone())

    def forward(self, q: Tensor) -> Tensor:
        """q (B, T, heads, key_dim) -> (B, T, heads, count)."""
        with torch.no_grad():
            wide = q if q.dtype == torch.float64 else q.float()
            return torch.einsum("bthk,hck->bthc", wide, self.centroids.to(wide.dtype))

    @torch.no_grad()
    def move_(self, number: Tensor, total: Tensor) -> None:
        """Follow queries of which `number` (heads, count) were nearest to each centroid, and their sums `total`."""
        decay, count = self.rule.decay, self.number.shape[-1]
        self.number.mul_(decay).add_((1 - decay) * number)
        self.total.mul_(decay).add_((1 - decay) * total)
        everything = self.number.sum(-1, keepdim=True)
        smooth = (self.number + 1e-5) / (everything + 1e-5 * count) * everything
        self.centroids.copy_(self.total / smooth[..., None])


@contextmanager
def followed(model: nn.Module) -> Iterator[Callable[[], Tensor | float]]:
    """Lets all centroids inside `model` follow the queries of the passes made while the context is open:

        with followed(model) as commitment:
            logits, state = model(tokens)
        loss = cross_entropy(logits, targets) + commitment()

    They move once, at the end, and not at all if the context is left by an error. `commitment()` is the sum of their
    losses; 0.0 for a model without any. Queries of length 0, as of tokens that say nothing, do not count.
    """
    modules = [module for module in model.modules() if isinstance(module, CentroidAffinity)]
    heard: dict[CentroidAffinity, tuple[Tensor, Tensor]] = {}
    losses: list[Tensor] = []

    def hear(module: Any, inputs: tuple[Tensor, ...], affinity: Tensor) -> None:
        q = inputs[0].flatten(0, 1).to(affinity.dtype)  # (B T, heads, key_dim)
        nearest = F.one_hot(affinity.flatten(0, 1).argmax(-1), affinity.shape[-1]).to(q.dtype)
        nearest = nearest * (q.detach() != 0).any(-1, keepdim=True)
        centroids = module.centroids.to(q.dtype)
        away = (q - torch.einsum("nhc,hck->nhk", nearest, centroids)).square().sum(-1) * nearest.sum(-1)
        losses.append(module.rule.commitment * away.sum() / nearest.sum().clamp(min=1))
        number, total = nearest.sum(0), torch.einsum("nhc,nhk->hck", nearest, q.detach())
        before = heard.get(module)
        heard[module] = (number, total) if before is None else (before[0] + number, before[1] + total)

    hooks = [module.register_forward_hook(hear) for module in modules]
    try:
        yield lambda: sum(losses) if losses else 0.0
        for module, (number, total) in heard.items():
            module.move_(number.to(module.number.dtype), total.to(module.total.dtype))
    finally:
        for hook in hooks:
            hook.remove()
