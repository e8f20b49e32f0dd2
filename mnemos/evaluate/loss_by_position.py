"""Whether a model goes on profiting from its memory beyond the length it was trained at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mnemos.errors import DataError, InvalidValue
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.evaluate.windows import Model, held_out_bits
from mnemos.train.corpus import Corpus


@dataclass(frozen=True)
class Bucket(Result):
    """Bits per byte over the positions `first` to `last`, both counted in, from 0 at the window's start."""

    first: int
    last: int
    value: Estimate


@dataclass(frozen=True)
class LossByPosition(Result):
    """Bits per byte by position in the window, within and beyond the training length."""

    buckets: tuple[Bucket, ...]
    within: Estimate
    """The second half of the training length."""
    beyond: Estimate
    """Everything after the training length."""
    training_length: int
    length: int
    windows: int


def loss_by_position(
    model: Model,
    corpus: Corpus,
    *,
    training_length: int,
    length: int | None = None,
    tokens: int = 262144,
    separate: bool = False,
) -> LossByPosition:
    """Bits per byte in buckets of positions, each twice as wide as the one before.

    length: tokens of a window, each starting with an empty memory, 8 training lengths if None; tokens: how
    many to read in all, spread evenly over the held-out text; separate: whether the memory starts afresh with
    every document.

    Raises:
        InvalidValue: length does not exceed training_length, or training_length is below 2.
        DataError: the held-out text is too short for two windows.
    """
    length = 8 * training_length if length is None else length
    if not 2 <= training_length < length:
        raise InvalidValue(
            f"loss_by_position looks beyond the training length and needs 2 <= training_length < length; "
            f"got training_length={training_length}, length={length}. Choose a larger length."
        )
    if len(corpus.held_out) <= 2 * length:
        raise DataError(
            f"the held-out text has {len(corpus.held_out):,} tokens; two windows of {length:,} tokens are "
            f"needed to see beyond the training length of {training_length:,}. Give more text, or a smaller "
            "--length."
        )
    tokens = max(tokens, 2 * length)
    needed = held_out_bits(model, corpus, "by position", length=length, tokens=tokens, separate=separate)

    def between(first: int, end: int) -> Estimate:
        return estimate(needed[:, first:end].mean(1) / corpus.bytes_per_token)

    edges = bucket_edges(training_length, length)
    return LossByPosition(
        buckets=tuple(Bucket(a, b - 1, between(a, b)) for a, b in pairwise(edges)),
        within=between(training_length // 2, training_length),
        beyond=between(training_length, length),
        training_length=training_length,
        length=length,
        windows=len(needed),
    )


def bucket_edges(training_length: int, length: int) -> list[int]:
    """Edges from 0 to `length`, each twice the one before, one exactly at the training length."""
    below = [training_length >> halvings for halvings in range(1, 64) if training_length >> halvings >= 16]
    above = [training_length << doublings for doublings in range(64) if training_length << doublings < length]
    return [0, *reversed(below), *above, length]
