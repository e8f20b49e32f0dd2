"""Prediction of sources that switch at unknown times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, TokenTask, at_questions
from mnemos.tasks.registry import task


@task(
    "switching",
    source="arXiv 2302.03067 (piecewise stationary memoryless sources), arXiv 1211.0587 (partition tree weighting)",
    differences=(
        "a switch comes at every token with one probability, where the papers also draw it from a tree of partitions",
        "the reference is the exact posterior over the last switch; partition tree weighting stands beside it",
        "the last question asks for a token after the end of the inputs",
    ),
)
@dataclass(frozen=True)
class SwitchingSources(TokenTask):
    """Tokens of one source until, unseen, another takes over: how likely is each symbol to come next?

        x_1 x_2 x_3 ... x_T        asked at every token; the answer is the next one

    Each source draws its tokens independently, with probabilities of its own from a symmetric Dirichlet distribution.
    A model's outputs are logits of the next token. Scored by the log loss in bits: `ceiling` is the mean score of the
    exact Bayesian mixture over the time of the last switch, and `chance` log2(symbols), that of equal probabilities.
    Beside it stand `partition_tree_weighting`, which knows no hazard, and `krichevsky_trofimov`, which knows no switch.
    symbols: the vocabulary, at least 2. hazard: the probability in (0, 1] that a source ends after a token.
    concentration: of the Dirichlet distribution, positive: the smaller, the surer the next token; 0.5 is Jeffreys'.
    facts: "since", how many tokens of the answer's own source were seen.
    """

    length: int = 256
    symbols: int = 2
    hazard: float = 0.02
    concentration: float = 0.5

    measure: ClassVar[str] = "bits"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    facts: ClassVar[tuple[str, ...]] = ("since",)

    def __post_init__(self) -> None:
        self.at_least(symbols=2, length=2)
        expect(0 < self.hazard <= 1, f"SwitchingSources(hazard=) is a probability in (0, 1]; got {self.hazard}.")
        expect(
            0 < self.concentration < math.inf,
            f"SwitchingSources(concentration=) must be positive and finite; got {self.concentration}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return math.log2(self.symbols)

    @property
    def ceiling(self) -> float:
        """The mean entropy of a source, and what `solve` loses to one who knows the sources, as measured on a fixed
        draw (to a few thousandths of a bit)."""
        a, k = self.concentration, self.symbols
        entropy = torch.digamma(torch.tensor([k * a + 1, a + 1], dtype=torch.float64)).diff().neg()
        return float(entropy) / math.log(2) + _regret(self)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        tokens, source, _ = self._sources(rows, random)
        place = np.arange(self.length + 1)
        began = np.where(np.diff(source, prepend=0) > 0, place, 0)
        since = (place - np.maximum.accumulate(began, axis=1))[:, 1:].copy()
        asked = torch.ones(rows, self.length, dtype=torch.bool)
        inputs, targets = (torch.from_numpy(tokens[:, part].copy()) for part in (slice(-1), slice(1, None)))
        return Batch(inputs, targets, asked, {"since": torch.from_numpy(since)})

    def solve(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(np.log(self._mixture(inputs.numpy()))).float()

    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        logits = at_questions(outputs, batch, self.outputs).double()
        return F.cross_entropy(logits, batch.targets[batch.asked], reduction="none") / math.log(2)

    def _sources(self, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """length + 1 tokens a row, the number of the source of each, and the probabilities of each source."""
        shape = (rows, self.length + 1)
        switches = random.random(shape) < self.hazard
        switches[:, 0] = False
        source = switches.cumsum(1)
        weights = random.dirichlet(np.full(self.symbols, self.concentration), (rows, source.max() + 1))
        row, level, below = np.arange(rows)[:, None], random.random(shape), weights.cumsum(2)
        tokens = np.zeros(shape, dtype=np.int64)
        for symbol in range(self.symbols - 1):
            tokens += level >= below[row, source, symbol]
        return tokens, source, weights

    def _mixture(self, tokens: np.ndarray) -> np.ndarray:
        """Probabilities (B, T, symbols) of the next token: those of a source last switched to at each time, weighted by
        the posterior of that time. A source as old as 20 / hazard is forgotten; it lives so long once in e^20 times."""
        rows, length = tokens.shape
        oldest = math.ceil(min(length + 1, 20 / self.hazard))
        counts = np.zeros((rows, length + 1, self.symbols))
        counts[:, 1:] = (tokens[..., None] == np.arange(self.symbols)).cumsum(1)
        began = np.zeros((rows, length + 1))
        began[:, 0] = 1
        each = np.full((rows, 1, self.symbols), 1 / self.symbols)
        found = np.empty((rows, length, self.symbols))
        for now in range(length):
            first = now + 1 - each.shape[1]
            posterior = began[:, first : now + 1]
            posterior *= np.take_along_axis(each, tokens[:, now, None, None], 2)[..., 0]
            posterior *= (1 - self.hazard) / posterior.sum(1, keepdims=True)
            began[:, now + 1] = self.hazard
            first = max(0, now + 2 - oldest)
            each = counts[:, now + 1, None] - counts[:, first : now + 2]
            each += self.concentration
            each /= each.sum(2, keepdims=True)
            posterior = began[:, first : now + 2]
            found[:, now] = (posterior[:, None] @ each)[:, 0] / posterior.sum(1, keepdims=True)
        return found


@lru_cache(maxsize=64)
def _regret(task: SwitchingSources) -> float:
    """What the mixture loses to one who knows the sources, in bits a token, by the mean over a fixed draw.

    After 4,096 tokens it is taken to stay as it was in the later half of them.
    """
    length = min(task.length, 4096)
    work = length * min(length, 20 / task.hazard) * task.symbols
    rows = math.ceil(min(2**18 / length, 2**26 / work))  # a second or so
    tokens, source, weights = task.replace(length=length)._sources(rows, np.random.Generator(np.random.Philox(0)))
    known = weights[np.arange(len(source))[:, None], source[:, 1:]]
    expected = task._mixture(tokens[:, :-1])
    ratio = np.divide(known, expected, out=np.ones_like(known), where=known > 0)
    regret = (known * np.log2(ratio)).sum(-1).mean(0)
    return float((regret.sum() + (task.length - length) * regret[length // 2 :].mean()) / task.length)
