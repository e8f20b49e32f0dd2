"""Regression in context: weights that stay, that jump, that drift."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, VectorTask
from mnemos.tasks.registry import task

ROUNDING = 1e-10
"""The least variance of y given the weights: inputs are float32."""


@dataclass(frozen=True)
class InContextRegression(VectorTask):
    """What regressions share: x_1, y_1, x_2, y_2 ... with y_i = w_i x_i + noise, asked at every x for its y.

    Its kinds say how the weights move, `_weights`, and how likely each set of weights is after what was seen, `_seen`.
    """

    dimensions: int = 4
    noise: float = 0.1

    facts: ClassVar[tuple[str, ...]] = ("examples",)

    def __post_init__(self) -> None:
        kind = type(self).__name__
        self.at_least(dimensions=1, length=2)
        expect(
            self.length % 2 == 0,
            f"{kind}(length=) must be even, since each example takes two tokens; got {self.length}.",
        )
        expect(
            0 <= self.noise < float("inf"),
            f"{kind}(noise=) is a standard deviation of at least 0; got {self.noise}.",
        )

    @property
    def inputs(self) -> int:
        return self.dimensions + 2

    @property
    def outputs(self) -> int:
        return 1

    @property
    def mean_square(self) -> float:
        return 1.0 + self.noise**2

    @property
    def ceiling(self) -> float:
        """The mean score of `solve`, from the variance that it is left with in 64 sequences or more of a fixed seed."""
        return _ceiling(self)

    @abstractmethod
    def _weights(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The weights of every example (rows, examples, dimensions), and facts (rows, examples)."""

    @abstractmethod
    def _predicted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (rows, examples) of each y, its noise included, given x (rows, examples, dimensions) up to
        there and y before."""

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        examples = self.length // 2
        x = random.standard_normal((rows, examples, self.dimensions))
        weights, moved = self._weights(rows, random)
        y = (weights * x).sum(-1) + self.noise * random.standard_normal((rows, examples))
        inputs = np.zeros((rows, self.length, self.inputs), dtype=np.float32)
        inputs[:, 0::2, :-2], inputs[:, 1::2, -2], inputs[:, 0::2, -1] = x, y, 1
        targets = np.zeros((rows, self.length, 1), dtype=np.float32)
        targets[:, 0::2, 0] = y
        asked = np.zeros((rows, self.length), dtype=bool)
        asked[:, 0::2] = True
        facts = {"examples": np.broadcast_to(np.arange(examples), (rows, examples)), **moved}
        spread = {name: np.repeat(fact, 2, axis=1).astype(np.int64) for name, fact in facts.items()}
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(asked),
            {name: torch.from_numpy(fact) for name, fact in spread.items()},
        )

    def solve(self, inputs: Tensor) -> Tensor:
        vectors = inputs.double().numpy()
        mean, _ = self._predicted(vectors[:, 0::2, :-2], vectors[:, 1::2, -2])
        outputs = torch.zeros(*inputs.shape[:2], 1)
        outputs[:, 0::2, 0] = torch.from_numpy(mean)
        return outputs


@lru_cache(maxsize=64)
def _ceiling(of: InContextRegression) -> float:
    total, batches = 0.0, max(1024 // (of.length // 2), 1)
    for index in range(batches):
        inputs = of.batch(64, seed=2**40, index=index).inputs.double().numpy()
        _, variance = of._predicted(inputs[:, 0::2, :-2], inputs[:, 1::2, -2])
        total += float(variance.mean()) / batches
    return total / of.mean_square


class Gaussian:
    """What is believed of weights: mean (..., d) and covariance (..., d, d), at first 0 and 1 / d."""

    def __init__(self, shape: tuple[int, ...], dimensions: int, noise: float):
        self.mean = np.zeros((*shape, dimensions))
        self.covariance = np.broadcast_to(np.eye(dimensions) / dimensions, (*shape, dimensions, dimensions)).copy()
        self.noise = max(noise**2, ROUNDING)

    def predicted(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (...) of y at x (..., d)."""
        along = (self.covariance @ x[..., None])[..., 0]
        return (self.mean * x).sum(-1), (along * x).sum(-1) + self.noise

    def see(self, x: np.ndarray, y: np.ndarray) -> None:
        """One example more: x (..., d) and y (...)."""
        along = (self.covariance @ x[..., None])[..., 0]
        mean, variance = self.predicted(x)
        gain = along / variance[..., None]
        self.mean = self.mean + gain * (y - mean)[..., None]
        self.covariance = self.covariance - gain[..., :, None] * along[..., None, :]

    def begin(self) -> None:
        """One more along the last axis of the shape, that has seen nothing."""
        further = Gaussian((*self.mean.shape[:-2], 1), self.mean.shape[-1], 0.0)
        self.mean = np.concatenate([self.mean, further.mean], -2)
        self.covariance = np.concatenate([self.covariance, further.covariance], -3)

    def drift(self, kept: float) -> None:
        """The weights keep this share of themselves (of their variance its square), and the rest is drawn anew."""
        dimensions = self.mean.shape[-1]
        self.mean = kept * self.mean
        self.covariance = kept**2 * self.covariance + (1 - kept**2) / dimensions * np.eye(dimensions)


def _filtered(x: np.ndarray, y: np.ndarray, noise: float, kept: float) -> tuple[np.ndarray, np.ndarray]:
    """The Kalman filter's mean and variance of each y."""
    believed = Gaussian(x.shape[:1], x.shape[2], noise)
    mean, variance = np.zeros_like(y), np.zeros_like(y)
    for i in range(x.shape[1]):
        if i:
            believed.drift(kept)
        mean[:, i], variance[:, i] = believed.predicted(x[:, i])
        believed.see(x[:, i], y[:, i])
    return mean, variance


@task(
    "regression",
    source="arXiv 2208.01066 (linear functions)",
    differences=(
        "weights have variance 1 / dimensions, so that y has variance 1 without noise",
        "a channel marks the questions; x and y have channels of their own",
    ),
)
@dataclass(frozen=True)
class Regression(InContextRegression):
    """Linear regression in context: every sequence has weights of its own, and shows them by noisy examples.

        x_1 y_1 x_2 y_2 ... x_n y_n       asked at every x; the answer is its y = w x + noise

    Channels: x, then y, then 1 where x stands and 0 where y stands; what is not there is 0. x is standard normal, w
    normal with variance 1 / dimensions. The best answer is that of ridge regression with penalty dimensions * noise^2.

    dimensions: of x. noise: its standard deviation, which the answers have too.
    facts: "examples", how many stood before.
    """

    def __post_init__(self) -> None:  # a declaration runs its own alone
        super().__post_init__()

    def _weights(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        weights = random.standard_normal((rows, 1, self.dimensions)) / self.dimensions**0.5
        return np.repeat(weights, self.length // 2, axis=1), {}

    def _predicted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _filtered(x, y, self.noise, kept=1.0)


@task(
    "drifting_regression",
    source="arXiv 2208.01066 with weights that move; solved by the Kalman filter (Kalman, 1960)",
    differences=("the random walk is drawn back to 0 just so much that the weights keep their variance",),
)
@dataclass(frozen=True)
class DriftingRegression(InContextRegression):
    """Linear regression in context whose weights move a little after every example: what is old counts less.

        x_1 y_1 x_2 y_2 ... x_n y_n       asked at every x; the answer is its y = w_i x + noise
        w_(i+1) = sqrt(1 - drift^2) w_i + drift * (normal with variance 1 / dimensions)

    Channels as in Regression. The best answer is the Kalman filter's.

    dimensions: of x. noise: its standard deviation, which the answers have too. drift: how far the weights move at each
    step against their own size, in [0, 1]: 0 never, 1 to quite other ones.
    facts: "examples", how many stood before.
    """

    drift: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.drift <= 1, f"DriftingRegression(drift=) is in [0, 1]; got {self.drift}.")

    @property
    def _kept(self) -> float:
        return (1 - self.drift**2) ** 0.5

    def _weights(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        steps = random.standard_normal((rows, self.length // 2, self.dimensions)) / self.dimensions**0.5
        weights = steps.copy()
        for i in range(1, self.length // 2):
            weights[:, i] = self._kept * weights[:, i - 1] + self.drift * steps[:, i]
        return weights, {}

    def _predicted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _filtered(x, y, self.noise, self._kept)


@task(
    "piecewise_regression",
    source="arXiv 2208.01066 with weights that jump; solved by the filter over run lengths of arXiv 0710.3742",
)
@dataclass(frozen=True)
class PiecewiseRegression(InContextRegression):
    """Linear regression in context whose weights are replaced now and then, unannounced: notice it and begin anew.

        x_1 y_1 x_2 y_2 ... x_n y_n       asked at every x; the answer is its y = w_i x + noise

    Channels as in Regression. Before each example but the first, the weights are drawn anew with probability `change`.
    The best answer weighs those of regressions that begin at each of the examples so far by how likely it is that the
    weights did.

    dimensions: of x. noise: its standard deviation, which the answers have too. change: in [0, 1].
    facts: "examples", how many stood before; "since", how many of them have the same weights.
    """

    change: float = 0.05

    facts: ClassVar[tuple[str, ...]] = ("examples", "since")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 <= self.change <= 1, f"PiecewiseRegression(change=) is a probability in [0, 1]; got {self.change}.")

    def _weights(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        examples = self.length // 2
        anew = random.random((rows, examples)) < self.change
        anew[:, 0] = True
        began = np.maximum.accumulate(np.where(anew, np.arange(examples), 0), axis=1)
        fresh = random.standard_normal((rows, examples, self.dimensions)) / self.dimensions**0.5
        return fresh[np.arange(rows)[:, None], began], {"since": np.arange(examples) - began}

    def _predicted(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, examples, dimensions = x.shape
        believed = Gaussian((rows, 0), dimensions, self.noise)  # for each example that the weights may date from
        likely = np.zeros((rows, 0))  # of each of these, given what was seen
        mean, variance = np.zeros_like(y), np.zeros_like(y)
        for i in range(examples):
            believed.begin()
            anew = self.change if i else 1.0
            likely = np.concatenate([(1 - anew) * likely, np.full((rows, 1), anew)], 1)
            now, answer = x[:, i, None], y[:, i, None]
            means, variances = believed.predicted(now)
            mean[:, i] = (likely * means).sum(1)
            variance[:, i] = (likely * (variances + means**2)).sum(1) - mean[:, i] ** 2
            fit = -0.5 * ((answer - means) ** 2 / variances + np.log(variances))
            fit = np.where(likely > 0, fit, -np.inf)
            likely = likely * np.exp(fit - fit.max(1, keepdims=True))
            likely /= likely.sum(1, keepdims=True)
            believed.see(now, answer)
        return mean, variance
