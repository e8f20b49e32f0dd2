"""Delayed match to sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task


@task(
    "delayed_match",
    source="the task of psychology, Blough 1959; delays with other stimuli after Miller, Li and Desimone 1993",
    differences=("symbols for pictures, and markers that tell sample and test from what stands between them",),
)
@dataclass(frozen=True)
class DelayedMatch(TokenTask):
    """A sample, a delay, a test: is it the sample again? Trials like this follow one another.

        sample s . . z . . test s'        asked at s'; the answer is yes where s' = s, else no

    delay: the most tokens between s and the marker of its test; each trial draws from 1 to `delay`, all equally
    likely, and takes delay + 4 tokens in all, blanks at its end. symbols: s is drawn from [0, symbols); s' is s half
    the time, otherwise any other symbol. distractors: the share of the tokens within the delay that are symbols too
    (z), drawn from [0, symbols); the others are blanks. After the symbols come the tokens no, yes, blank, sample and
    test. A longer sequence has more trials.
    facts: "delay", tokens from s to s'; "match", 1 or 0.
    """

    delay: int = 28
    symbols: int = 16
    distractors: float = 0.5

    facts: ClassVar[tuple[str, ...]] = ("delay", "match")

    def __post_init__(self) -> None:
        self.at_least(delay=1, symbols=2)
        share = self.distractors
        expect(0 <= share <= 1, f"DelayedMatch(distractors=) is a share in [0, 1]; got {share!r}.")
        expect(
            self.length >= self.delay + 4,
            f"DelayedMatch(length=) must be at least delay + 4 = {self.delay + 4}, so that a trial fits; got "
            f"{self.length}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols + 5

    @property
    def chance(self) -> float:
        return 0.5

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        whole = self.delay + 4
        trials = self.length // whole
        blank, start, test = (self.symbols + i for i in (2, 3, 4))
        shape, each = (rows, trials, whole), (rows, trials, 1)
        between = random.integers(1, self.delay + 1, each)
        sample = random.integers(0, self.symbols, each)
        match = random.random(each) < 0.5
        probe = np.where(match, sample, (sample + random.integers(1, self.symbols, each)) % self.symbols)

        tokens = np.where(random.random(shape) < self.distractors, random.integers(0, self.symbols, shape), blank)
        tokens[np.broadcast_to(np.arange(whole) > between + 3, shape)] = blank
        tokens[..., :1], tokens[..., 1:2] = start, sample
        np.put_along_axis(tokens, between + 2, test, 2)
        np.put_along_axis(tokens, between + 3, probe, 2)
        asked = np.zeros(shape, dtype=bool)
        np.put_along_axis(asked, between + 3, True, 2)

        def in_rows(of_trials: np.ndarray, rest: int = 0) -> Tensor:
            flat = np.full((rows, self.length), rest, dtype=of_trials.dtype)
            flat[:, : trials * whole] = np.broadcast_to(of_trials, shape).reshape(rows, -1)
            return torch.from_numpy(flat)

        facts = {"delay": in_rows(between + 2), "match": in_rows(match.astype(np.int64))}
        return Batch(in_rows(tokens, blank), in_rows(self.symbols + match.astype(np.int64)), in_rows(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        said = torch.full_like(inputs, UNKNOWN)
        start, test = self.symbols + 3, self.symbols + 4
        sample = torch.full_like(inputs[:, 0], UNKNOWN)
        for t in range(1, self.length):
            sample = torch.where(inputs[:, t - 1] == start, inputs[:, t], sample)
            answer = self.symbols + (inputs[:, t] == sample).long()
            said[:, t] = torch.where(inputs[:, t - 1] == test, answer, UNKNOWN)
        return self.answers(said)
