"""Recall of vectors by vectors: by a noisy cue, and from noisy writing."""

from __future__ import annotations

import itertools
import math
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

ROUNDING = 1e-8
"""The least variance of what is written: inputs are float32."""


@dataclass(frozen=True)
class VectorRecall(VectorTask):
    """What recalls of vectors share: each token is a key beside a value, or a cue beside nothing and a mark.

    The first `_written` tokens are pairs, all others are cues, each of them asked for a value.
    """

    key_dim: int = 16
    value_dim: int = 8

    def __post_init__(self) -> None:
        kind = type(self).__name__
        self.at_least(key_dim=1, value_dim=1)
        expect(
            self.length > self._written,
            f"{kind}(length=) must be more than the {self._written} tokens that write, so that there are cues; "
            f"got {self.length}.",
        )

    @property
    @abstractmethod
    def _written(self) -> int:
        """Tokens that write."""

    @property
    def inputs(self) -> int:
        return self.key_dim + self.value_dim + 1

    @property
    def outputs(self) -> int:
        return self.value_dim

    def _batch(self, keys: np.ndarray, values: np.ndarray, answers: np.ndarray, facts: dict[str, np.ndarray]) -> Batch:
        """keys (rows, length, key_dim), cues among them; values (rows, written, value_dim); answers and facts of the
        cues (rows, cues, ...)."""
        rows, written = len(keys), self._written
        inputs = np.zeros((rows, self.length, self.inputs), dtype=np.float32)
        inputs[..., : self.key_dim], inputs[:, :written, self.key_dim : -1], inputs[:, written:, -1] = keys, values, 1
        targets = np.zeros((rows, self.length, self.value_dim), dtype=np.float32)
        targets[:, written:] = answers
        asked = np.zeros((rows, self.length), dtype=bool)
        asked[:, written:] = True
        spread = {name: np.zeros((rows, self.length), dtype=np.int64) for name in facts}
        for name, fact in facts.items():
            spread[name][:, written:] = fact
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            torch.from_numpy(asked),
            {name: torch.from_numpy(fact) for name, fact in spread.items()},
        )

    def _parts(self, inputs: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys and values written (rows, written, .), and cues (rows, cues, key_dim), in double precision."""
        vectors, written = inputs.double().numpy(), self._written
        keys = vectors[..., : self.key_dim]
        return keys[:, :written], vectors[:, :written, self.key_dim : -1], keys[:, written:]

    def _answers(self, found: np.ndarray) -> Tensor:
        """found (rows, cues, value_dim) at the cues, nothing elsewhere."""
        nothing = np.zeros((len(found), self._written, self.value_dim))
        return torch.from_numpy(np.concatenate([nothing, found], 1)).float()


def _directions(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Vectors of length 1, evenly on the sphere."""
    return _unit(random.standard_normal(shape, dtype=np.float32))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _nearest(cues: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of the key (rows, pairs, .) nearest to each cue (rows, cues, .), all of length 1: (rows, cues)."""
    return (cues.astype(np.float64) @ keys.astype(np.float64).swapaxes(1, 2)).argmax(-1)


@task(
    "nearest_key",
    source="the nearest-neighbour target of arXiv 2407.16153",
    differences=(
        "a key has a value of its own, which is the answer; there the answer is the nearest key itself",
        "a cue is a noisy copy of a key; there it is drawn evenly from the sphere, as with very large noise here",
    ),
)
@dataclass(frozen=True)
class NearestKey(VectorRecall):
    """Pairs of vectors, then noisy copies of keys: what was the value of the key nearest to this?

        k_1|v_1  k_2|v_2 ... k_n|v_n  q_1  q_2 ...       asked at every q; the answer is the value of its nearest key

    Channels: a key or a cue, then the value, then 1 at cues and 0 at pairs; a cue has no value, 0. Keys and values are
    drawn evenly from the unit sphere. A cue is a key drawn evenly, plus noise, brought back to length 1; where noise
    brings it nearer to another key, the value of that one is the answer.

    key_dim: of keys and cues. value_dim: of values. pairs: n. noise: the length of the noise against the key's: normal
    with variance noise^2 / key_dim in each channel.
    facts: "delay", tokens from the pair to the cue; "pair", the pair's place, from 0.
    """

    length: int = 64
    pairs: int = 16
    noise: float = 0.5

    facts: ClassVar[tuple[str, ...]] = ("delay", "pair")

    def __post_init__(self) -> None:
        self.at_least(pairs=1)
        expect(0 <= self.noise < float("inf"), f"NearestKey(noise=) must be at least 0; got {self.noise}.")
        super().__post_init__()

    @property
    def _written(self) -> int:
        return self.pairs

    @property
    def mean_square(self) -> float:
        return 1.0

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        row, cues = np.arange(rows)[:, None], self.length - self.pairs
        keys = _directions(random, rows, self.pairs, self.key_dim)
        values = _directions(random, rows, self.pairs, self.value_dim)
        copied = keys[row, random.integers(0, self.pairs, (rows, cues))]
        cue = _unit(copied + self.noise / self.key_dim**0.5 * random.standard_normal(copied.shape, dtype=np.float32))
        pair = _nearest(cue, keys)
        facts = {"delay": self.pairs + np.arange(cues) - pair, "pair": pair}
        return self._batch(np.concatenate([keys, cue], 1), values, values[row, pair], facts)

    def solve(self, inputs: Tensor) -> Tensor:
        keys, values, cues = self._parts(inputs)
        return self._answers(values[np.arange(len(keys))[:, None], _nearest(cues, keys)])


@task("noisy_recall", source="ours, with the contaminated normal noise of Tukey (1960)")
@dataclass(frozen=True)
class NoisyRecall(VectorRecall):
    """Every key is written several times with a noisy value, some of them far off: what is the clean value?

        k_2|v  k_1|v'  k_2|v'' ...  k_1  k_2 ...       asked at every cue; the answer is the clean value of this key

    Channels: a key, then the value, then 1 at cues and 0 where something is written; a cue has no value, 0. Keys are
    drawn evenly from the unit sphere, clean values are normal with variance 1. The writes come in random order, then
    cues drawn evenly. What is written is the clean value plus normal noise in every channel; each write is an outlier
    by chance, and then has much larger noise. Memories that write with the square of the error are thrown off by
    outliers, those with a robust objective less. The best answer weighs all ways in which the writes may be outliers;
    `ceiling` is its mean score by its own uncertainty about 512 keys with each number of outliers.

    key_dim: of keys and cues. value_dim: of values. keys: how many. writes: of each key, 1 to 8. noise: its standard
    deviation. outliers: the probability of one, in [0, 1]. size: the standard deviation of an outlier's noise.
    facts: "delay", tokens from the key's last write to the cue; "outliers", how many of its writes are outliers.
    """

    length: int = 96
    keys: int = 8
    writes: int = 4
    noise: float = 0.1
    outliers: float = 0.2
    size: float = 5.0

    facts: ClassVar[tuple[str, ...]] = ("delay", "outliers")

    def __post_init__(self) -> None:
        self.at_least(keys=1, writes=1)
        expect(
            self.writes <= 8,
            f"NoisyRecall(writes=) is at most 8, since the best answer weighs 2^writes cases; got {self.writes}.",
        )
        expect(0 <= self.outliers <= 1, f"NoisyRecall(outliers=) is a probability in [0, 1]; got {self.outliers}.")
        expect(
            0 <= self.noise <= self.size < float("inf"),
            f"NoisyRecall(noise=) is at least 0 and at most size={self.size}; got {self.noise}.",
        )
        super().__post_init__()

    @property
    def _written(self) -> int:
        return self.keys * self.writes

    @property
    def mean_square(self) -> float:
        return float(self.value_dim)

    @property
    def ceiling(self) -> float:
        return _ceiling(self)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        row, written, cues = np.arange(rows)[:, None], self._written, self.length - self._written
        keys = _directions(random, rows, self.keys, self.key_dim)
        clean = random.standard_normal((rows, self.keys, self.value_dim))
        order = np.argsort(random.random((rows, written)), axis=1) % self.keys
        hit = random.random((rows, written)) < self.outliers
        spread = np.where(hit, self.size, self.noise)[..., None]
        values = clean[row, order] + spread * random.standard_normal((rows, written, self.value_dim))
        cue = random.integers(0, self.keys, (rows, cues))
        hits, last = np.zeros((2, rows, self.keys), dtype=np.int64)
        for place in range(written):
            hits[row[:, 0], order[:, place]] += hit[:, place]
            last[row[:, 0], order[:, place]] = place
        facts = {"delay": written + np.arange(cues) - last[row, cue], "outliers": hits[row, cue]}
        return self._batch(keys[row, np.concatenate([order, cue], 1)], values, clean[row, cue], facts)

    def solve(self, inputs: Tensor) -> Tensor:
        return self._answers(self._recalled(inputs))

    def _recalled(self, inputs: Tensor) -> np.ndarray:
        """The mean (rows, cues, value_dim) of each cue's clean value given what was written."""
        keys, values, cues = self._parts(inputs)
        row = np.arange(len(keys))[:, None]
        # at each write: the writes of the same key, of which there are `writes`
        same = (keys[:, :, None] == keys[:, None]).all(-1)
        of_key = np.argsort(~same, axis=2, kind="stable")[:, :, : self.writes]
        mean, _ = self._believed(values[row[..., None], of_key])
        match = (cues[:, :, None] == keys[:, None]).all(-1)  # (rows, cues, written)
        return np.where(match.any(-1, keepdims=True), mean[row, match.argmax(-1)], 0.0)

    def _believed(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean (..., value_dim) of a clean value given its writes (..., writes, value_dim), and the expected
        squared distance of the value from it (...)."""
        far = np.array(list(itertools.product((False, True), repeat=self.writes)))  # (cases, writes)
        precision = 1 / np.maximum(np.where(far, self.size, self.noise) ** 2, ROUNDING)
        with np.errstate(divide="ignore"):
            prior = np.where(far, np.log(self.outliers), np.log1p(-self.outliers)).sum(1)
        total = 1 + precision.sum(1)
        products = seen @ seen.swapaxes(-1, -2)
        along = np.einsum("ci,...ij,cj->...c", precision, products, precision, optimize=True)
        squares = np.einsum("cj,...jj->...c", precision, products)
        fit = (
            prior + 0.5 * self.value_dim * (np.log(precision).sum(1) - np.log(total)) - 0.5 * (squares - along / total)
        )
        likely = np.exp(fit - fit.max(-1, keepdims=True))
        likely /= likely.sum(-1, keepdims=True)
        mean = np.einsum("...c,cj,...jv->...v", likely / total, precision, seen, optimize=True)
        return mean, (likely * (self.value_dim / total + along / total**2)).sum(-1) - (mean**2).sum(-1)


@lru_cache(maxsize=64)
def _ceiling(of: NoisyRecall) -> float:
    random, error = np.random.default_rng(0), 0.0
    for hit in range(of.writes + 1):
        spread = np.where(np.arange(of.writes) < hit, of.size, of.noise)[:, None]
        clean = random.standard_normal((512, 1, of.value_dim))
        seen = clean + spread * random.standard_normal((512, of.writes, of.value_dim))
        share = math.comb(of.writes, hit) * of.outliers**hit * (1 - of.outliers) ** (of.writes - hit)
        error += share * float(of._believed(seen)[1].mean())
    return error / of.mean_square
