"""Which tokens a training step sees: a function of (seed, step) alone, so resuming stores no data state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import DataError
from mnemos.train.corpus import Corpus


@dataclass(frozen=True)
class Batch:
    """Windows of text and what follows each of their tokens.

    tokens, targets: (batch, length) int64, targets one token further on. reset: (batch, length) bool, True at
    the first token of each document, or None where documents are joined. fresh: whether the memory starts
    afresh with this batch rather than going on from the last one.
    """

    tokens: Tensor
    targets: Tensor
    reset: Tensor | None
    fresh: bool = True

    def rows(self, which: slice) -> Batch:
        """Some of the windows."""
        reset = None if self.reset is None else self.reset[which]
        return Batch(self.tokens[which], self.targets[which], reset, self.fresh)


@dataclass(frozen=True)
class Windows:
    """Windows at random places of the training text, drawn anew for every step.

    Raises DataError if the training text is shorter than one window.
    """

    corpus: Corpus
    length: int
    batch: int
    seed: int
    separate: bool = False

    def __post_init__(self) -> None:
        _refuse_if_short(self.corpus, self.length + 1, f"a window of {self.length} tokens and the one after it")

    def __call__(self, step: int) -> Batch:
        """The batch of this step, counted from 0."""
        last = len(self.corpus.training) - self.length - 1
        starts = _random(self.seed, step).integers(0, last + 1, size=self.batch)
        return _batch(self.corpus, starts[:, None] + np.arange(self.length + 1), self.separate)


@dataclass(frozen=True)
class Streams:
    """The training text in `batch` long streams, read segment by segment, so that a state can be passed on.

    Every time round, the text is rotated to begin at another random place; its end runs on into its
    beginning. Raises DataError if the training text is too short for one segment a stream.
    """

    corpus: Corpus
    length: int
    batch: int
    seed: int
    separate: bool = False

    def __post_init__(self) -> None:
        needed = self.batch * (self.length + 1)
        _refuse_if_short(self.corpus, needed, f"{self.batch} streams of {self.length} tokens each")

    @property
    def segments(self) -> int:
        """Batches in one time round."""
        return (self._stride - 1) // self.length

    @property
    def _stride(self) -> int:
        return len(self.corpus.training) // self.batch

    def __call__(self, step: int) -> Batch:
        """The batch of this step, counted from 0."""
        turn, segment = divmod(step, self.segments)
        begin = int(_random(self.seed, turn).integers(0, len(self.corpus.training)))
        starts = begin + np.arange(self.batch) * self._stride + segment * self.length
        index = (starts[:, None] + np.arange(self.length + 1)) % len(self.corpus.training)
        return _batch(self.corpus, index, self.separate, fresh=segment == 0)


def held_out_windows(corpus: Corpus, length: int, tokens: int, separate: bool = False) -> list[Batch]:
    """Windows spread evenly over the held-out text, of about `tokens` tokens in all.

    Each is a batch of one row. A held-out text shorter than a window gives one shorter window. Raises
    DataError if it has no two tokens.
    """
    available = len(corpus.held_out)
    if available < 2:
        raise DataError(
            f"only {available} of {len(corpus.tokens)} tokens are held out for evaluation; at least 2 are "
            "needed. Give more text."
        )
    length = min(length, available - 1)
    whole = (available - 1) // length
    chosen = min(whole, max(1, tokens // length))
    places = corpus.split + (np.arange(chosen) * whole // chosen) * length
    return [_batch(corpus, place + np.arange(length + 1)[None], separate) for place in places]


def in_batches(rows: list[Batch], size: int) -> Iterator[Batch]:
    """The same windows, `size` rows at a time."""
    for begin in range(0, len(rows), size):
        group = rows[begin : begin + size]
        resets = [row.reset for row in group if row.reset is not None]
        yield Batch(
            torch.cat([row.tokens for row in group]),
            torch.cat([row.targets for row in group]),
            torch.cat(resets) if resets else None,
        )


def _batch(corpus: Corpus, index: np.ndarray, separate: bool, *, fresh: bool = True) -> Batch:
    """The windows at these positions (batch, length + 1) of the corpus."""
    rows = torch.from_numpy(corpus.tokens[index].astype(np.int64))
    reset = torch.from_numpy(_begins_document(index[:, :-1], corpus.starts)) if separate else None
    return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), reset, fresh)


def _begins_document(index: np.ndarray, starts: np.ndarray) -> np.ndarray:
    nearest = np.searchsorted(starts, index).clip(max=len(starts) - 1)
    return starts[nearest] == index


def step_seed(seed: int, step: int) -> int:
    """The seed of everything else that is random in a step, such as dropout."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _random(seed: int, counter: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, counter], dtype=np.uint64)))


def _refuse_if_short(corpus: Corpus, needed: int, what: str) -> None:
    available = len(corpus.training)
    if available < needed:
        raise DataError(
            f"the training text has {available} tokens (a part is held out), but {what} need {needed}. "
            "Give more text, or a smaller --length or --batch."
        )
