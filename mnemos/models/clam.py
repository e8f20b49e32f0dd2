"""Clustering by an associative memory."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.memory.checks import check_finite


class ClAM(nn.Module):
    """Clustering with associative memories (arXiv 2306.03209): learned memories r_1 ... r_k pull every point v down the
    energy

        E(v) = -log( sum_m exp(-scale/2 |r_m - v|^2) ) / scale
        `steps` times:  v <- v + rate sum_m softmax_m(-scale/2 |r_m - v|^2) (r_m - v)

    which no step with 0 < rate < 2 raises. They learn by completing points: some features of x are hidden (set to the
    mean), only these move, and the loss is their squared distance to what they were. A point belongs to the memory
    that is nearest to where it ends. Features are standardised by the mean and deviation of the data given to `fit`.

    clusters: k; features: numbers a point. Differs from the released code: every point hides features of its own, any
    feature may be hidden, at least one is, and the first memories are points that lie apart.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, clusters: int, features: int, *, scale: float = 1.0, rate: float = 0.1, steps: int = 10):
        super().__init__()
        for name, number in (("clusters", clusters), ("features", features), ("steps", steps)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise InvalidType(f"ClAM({name}=) is a whole number; got {number!r}.")
            expect(number >= 1, f"ClAM({name}=) is at least 1; got {number}.")
        expect(math.isfinite(scale) and scale > 0, f"ClAM(scale=) is positive; got {scale}.")
        expect(0 < rate < 2, f"ClAM(rate=) lies between 0 and 2, or the energy may rise; got {rate}.")
        self.scale, self.rate, self.steps = scale, rate, steps
        self.memories = nn.Parameter(0.1 * torch.randn(clusters, features))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    def energy(self, v: Tensor) -> Tensor:
        """E of standardised points (..., features): (...)."""
        return -torch.logsumexp(-self.scale / 2 * self.distances(v), -1) / self.scale

    def distances(self, v: Tensor) -> Tensor:
        """Squared distances of standardised points (..., features) to the memories: (..., clusters)."""
        far = v.square().sum(-1, keepdim=True) + self.memories.square().sum(-1) - 2 * v @ self.memories.mT
        return far.clamp(min=0)

    def forward(self, v: Tensor, free: Tensor | None = None) -> Tensor:
        """Where standardised points (..., features) end; only features where `free` is True move, all if not given."""
        for _ in range(self.steps):
            pull = torch.softmax(-self.scale / 2 * self.distances(v), -1) @ self.memories - v
            moved = v + self.rate * pull
            v = moved if free is None else torch.where(free, moved, v)
        return v

    def loss(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The mean squared error of completing standardised points x (B, features) where `hidden` (B, features) is
        True."""
        return (self(x.masked_fill(hidden, 0.0), hidden) - x)[hidden].square().mean()

    def standardised(self, x: Tensor) -> Tensor:
        """Points (B, features) as the memories see them. Raises InvalidType or InvalidValue for anything else."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InvalidType(f"points must be a floating point tensor; got {getattr(x, 'dtype', type(x).__name__)}.")
        features = self.memories.shape[1]
        if x.ndim != 2 or x.shape[1] != features:
            raise InvalidValue(f"points must be (points, {features}); got shape {tuple(x.shape)}.")
        check_finite("points", x)
        return (x.to(self.memories) - self.centre) / self.spread

    def fit(
        self,
        x: Tensor,
        *,
        epochs: int = 100,
        batch: int = 32,
        learning_rate: float = 0.05,
        hide: float = 0.2,
        restarts: int = 3,
        seed: int = 0,
        progress: bool = True,
    ) -> Self:
        """Learn the memories from points (n, features): Adam, its rate times 0.8 after 5 epochs without progress, from
        `restarts` sets of points drawn far from each other (as in k-means++), of which the one with the least loss of
        completing stays. hide: share of features. Raises InvalidValue for fewer points than clusters and for options
        out of range."""
        clusters = len(self.memories)
        x = self.standardised(x)  # checks
        for name, number in (("epochs", epochs), ("batch", batch), ("restarts", restarts)):
            expect(number >= 1, f"fit({name}=) is at least 1; got {number}.")
        expect(0 < hide < 1, f"fit(hide=) is a share between 0 and 1; got {hide}.")
        expect(len(x) >= clusters, f"{clusters} clusters need as many points; got {len(x)}.")
        x = x * self.spread + self.centre
        spread = x.std(0, correction=0)
        self.centre.copy_(x.mean(0))
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))
        x = self.standardised(x)

        from tqdm import tqdm

        generator = torch.Generator().manual_seed(seed)
        best, least = self.memories.detach().clone(), math.inf
        judged = self._hidden(x, hide, torch.Generator().manual_seed(seed))
        shown = None if progress else True
        with tqdm(total=restarts * epochs, desc="clustering", leave=False, disable=shown) as bar:
            for _ in range(restarts):
                with torch.no_grad():
                    self.memories.copy_(_spread_out(x, clusters, generator))
                self._learn(x, epochs, batch, learning_rate, hide, generator, bar)
                with torch.no_grad():
                    loss = float(self.loss(x, judged))
                if loss < least:
                    best, least = self.memories.detach().clone(), loss
        with torch.no_grad():
            self.memories.copy_(best)
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The cluster of each point (n, features): (n,) whole numbers below the number of clusters."""
        return self.distances(self(self.standardised(x))).argmin(-1)

    def _learn(
        self,
        x: Tensor,
        epochs: int,
        batch: int,
        learning_rate: float,
        hide: float,
        generator: torch.Generator,
        bar: object,
    ) -> None:
        optimiser = torch.optim.Adam([self.memories], lr=learning_rate)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.8, patience=5)
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(x), generator=generator).split(batch):
                points = x[rows.to(x.device)]
                optimiser.zero_grad()
                loss = self.loss(points, self._hidden(points, hide, generator))
                loss.backward()
                optimiser.step()
                total += float(loss.detach()) * len(rows)
            schedule.step(total / len(x))
            bar.update()  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def _hidden(x: Tensor, hide: float, generator: torch.Generator) -> Tensor:
        """Which features each point hides, at least one."""
        chance = torch.rand(x.shape, generator=generator)
        return ((chance < hide) | (chance == chance.amin(-1, keepdim=True))).to(x.device)


def _spread_out(x: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Points of x (n, features), each drawn with a chance in proportion to its squared distance to those before."""
    chosen = [int(torch.randint(0, len(x), (), generator=generator))]
    nearest = (x - x[chosen[0]]).square().sum(-1)
    while len(chosen) < number:
        reached = nearest.double().cumsum(0).cpu()
        at = torch.rand((), generator=generator, dtype=torch.float64) * reached[-1]
        chosen.append(min(int(torch.searchsorted(reached, at, right=True)), len(x) - 1))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(-1))
    return x[chosen]
