"""What a task is: a frozen declaration that draws sequences with questions whose answers it knows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import InvalidValue, expect

UNKNOWN = -1
"""The answer of a solver that does not know."""


class Batch(NamedTuple):
    """Sequences and the questions in them.

    inputs: (B, T) int64 tokens, or (B, T, D) float32 vectors. targets: (B, T) int64, the right answer at each question,
    or (B, T, V) float32; anything elsewhere. asked: (B, T) bool, where the questions are: a model answers with its
    output at that place. facts: (B, T) int64 by name, something about each question that its score may depend on, such
    as how many tokens ago the answer was seen; anything elsewhere.
    """

    inputs: Tensor
    targets: Tensor
    asked: Tensor
    facts: dict[str, Tensor]


@dataclass(frozen=True)
class Task(Declaration):
    """Base of all tasks: the fields are knobs of difficulty, `length` is the number of tokens of every sequence.

    A task of a kind of its own derives from TokenTask or VectorTask and gives `draw` and `solve`.
    """

    length: int = 128

    facts: ClassVar[tuple[str, ...]] = ()
    """The names of what `Batch.facts` holds."""
    measure: ClassVar[str]
    """What `score` measures, in words."""
    better: ClassVar[Literal["higher", "lower"]]
    """Which scores are better."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels of a model's output: logits over tokens, or numbers."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The mean score of the best guess that looks at nothing."""

    @property
    @abstractmethod
    def ceiling(self) -> float:
        """The mean score of `solve`."""

    @abstractmethod
    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        """So many sequences, all that is random in them taken from `random`."""

    @abstractmethod
    def solve(self, inputs: Tensor) -> Tensor:
        """The outputs (B, T, V) of one who knows the rules and remembers everything, from the inputs alone."""

    @abstractmethod
    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One number a question, in the order of `batch.asked`, for a model's outputs (B, T, V)."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What training minimises: the mean over all questions, a scalar."""

    def batch(self, rows: int, *, seed: int, index: int = 0) -> Batch:
        """Batch `index` of the endless stream of this seed: the same whenever it is asked for.

        Raises InvalidValue for numbers out of range.
        """
        expect(isinstance(rows, int) and rows >= 1, f"batch(rows) is a whole number of at least 1; got {rows!r}.")
        for name, value in (("seed", seed), ("index", index)):
            expect(isinstance(value, int) and 0 <= value < 2**63, f"batch({name}=) is in [0, 2**63); got {value!r}.")
        key = np.array([seed, index], dtype=np.uint64)
        return self.draw(rows, np.random.Generator(np.random.Philox(key=key)))

    def batches(self, rows: int, *, seed: int) -> Iterator[Batch]:
        """The stream of this seed, without end."""
        index = 0
        while True:
            yield self.batch(rows, seed=seed, index=index)
            index += 1

    def at_length(self, length: int) -> Self:
        """The same task in sequences of another length, and of no other difficulty where that can be.

        Raises InvalidValue where it cannot be so long or so short.
        """
        return self.replace(length=length)

    def at_least(self, **least: int) -> None:
        """Raises InvalidValue, for `__post_init__`, where a field is below its least value."""
        for name, value in least.items():
            given = getattr(self, name)
            expect(given >= value, f"{type(self).__name__}({name}=) must be at least {value}; got {given!r}.")


@dataclass(frozen=True)
class TokenTask(Task):
    """A task whose inputs and answers are tokens; it is scored by the share of right answers."""

    measure: ClassVar[str] = "accuracy"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of tokens: inputs and answers lie in [0, vocabulary)."""

    @property
    def outputs(self) -> int:
        return self.vocabulary

    @property
    def ceiling(self) -> float:
        return 1.0

    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        asked = at_questions(outputs, batch, self.outputs)
        return (asked.argmax(-1) == batch.targets[batch.asked]).to(torch.float64)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(at_questions(outputs, batch, self.outputs).float(), batch.targets[batch.asked])

    def answers(self, tokens: Tensor) -> Tensor:
        """Outputs (B, T, vocabulary) that say these tokens (B, T); nothing where they are UNKNOWN."""
        known = tokens != UNKNOWN
        return F.one_hot(torch.where(known, tokens, 0), self.vocabulary).float() * known[..., None]


@dataclass(frozen=True)
class VectorTask(Task):
    """A task whose inputs and answers are vectors; it is scored by the squared error of an answer over the mean square
    of the answers, so that 1 is the score of always answering zero."""

    measure: ClassVar[str] = "squared error"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Channels of an input."""

    @property
    def chance(self) -> float:
        return 1.0

    @property
    def ceiling(self) -> float:
        return 0.0

    @property
    @abstractmethod
    def mean_square(self) -> float:
        """The expected square of an answer's length."""

    def score(self, outputs: Tensor, batch: Batch) -> Tensor:
        wrong = at_questions(outputs, batch, self.outputs).double() - batch.targets[batch.asked]
        return wrong.square().sum(-1) / self.mean_square

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        wrong = at_questions(outputs, batch, self.outputs).float() - batch.targets[batch.asked]
        return wrong.square().sum(-1).mean() / self.mean_square


def at_questions(outputs: Tensor, batch: Batch, channels: int) -> Tensor:
    """The outputs at the questions, (questions, V)."""
    wanted = (*batch.asked.shape, channels)
    if tuple(outputs.shape) != wanted:
        raise InvalidValue(f"the outputs for this batch are {wanted} (rows, tokens, channels); got {outputs.shape}.")
    return outputs[batch.asked]
