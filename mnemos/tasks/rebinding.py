"""Recall of keys that are bound again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task

ASK = 0


@task(
    "rebinding",
    source="arXiv 2506.08184 (PI-LLM), and the retrieval with repeated keys of arXiv 2102.11174, section 6.1",
    differences=(
        "keys and values are tokens; there they are words (2506.08184), or embedded vectors (2102.11174)",
        "questions stand between the bindings; there they follow the last one",
        "a key is never bound to the value that it has",
    ),
)
@dataclass(frozen=True)
class Rebinding(TokenTask):
    """Few keys are bound to ever new values, and asked for in between: what is the value of this key now?

        k_2 v_7 k_1 v_3 ? k_2 k_2 v_4 k_1 v_5 ? k_2 ...       asked at a key behind "?"; the answer is its latest value

    Each of the length / 2 steps binds a key or asks for one that is bound, both drawn evenly. "?" is the token 0.

    keys: how many different ones there are in a sequence, drawn from [1, tokens / 2). tokens: the vocabulary; values
    are drawn evenly from [tokens / 2, tokens), but never the one that the key has. questions: their share of the steps,
    at places drawn evenly from all but the first step.
    facts: "delay", tokens from the value to its question; "bound", how often the key was bound so far, 1 and more.
    """

    keys: int = 8
    tokens: int = 64
    questions: float = 0.25

    facts: ClassVar[tuple[str, ...]] = ("delay", "bound")

    def __post_init__(self) -> None:
        self.at_least(keys=1, tokens=4, length=4)
        expect(
            self.tokens % 2 == 0 and self.keys < self.tokens // 2,
            f"Rebinding(tokens=) must be even, and more than twice keys={self.keys} so that the keys can differ; "
            f"got {self.tokens}.",
        )
        expect(
            self.length % 2 == 0,
            f"Rebinding(length=) must be even, since each step takes two tokens; got {self.length}.",
        )
        expect(
            0 < self.questions < 1,
            f"Rebinding(questions=) is a share of the steps between 0 and 1; got {self.questions}.",
        )

    @property
    def vocabulary(self) -> int:
        return self.tokens

    @property
    def chance(self) -> float:
        return 2 / self.tokens

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        half, steps, row = self.tokens // 2, self.length // 2, np.arange(rows)[:, None]
        names = np.argsort(random.random((rows, half - 1)), axis=1)[:, : self.keys] + 1
        number = min(max(round(self.questions * steps), 1), steps - 1)
        asks = np.zeros((rows, steps), dtype=bool)
        asks[row, 1 + np.argsort(random.random((rows, steps - 1)), axis=1)[:, :number]] = True

        # (rows, steps, keys): which key each step binds, how often each was bound, where last, and to what
        drawn = random.integers(0, self.keys, (rows, steps))
        binds = (np.arange(self.keys) == drawn[..., None]) & ~asks[..., None]
        times = binds.cumsum(1)
        since = np.maximum.accumulate(binds * (2 * np.arange(steps) + 1)[:, None], axis=1)
        first, further = random.integers(0, half, (rows, steps)), random.integers(1, half, (rows, steps))
        moves = np.where(times == 1, first[..., None], further[..., None])  # of the other values each is as likely
        value = half + (binds * moves).cumsum(1) % half

        asked_key = np.where(times > 0, random.random((rows, steps, self.keys)), -1.0).argmax(2)
        key = np.where(asks, asked_key, drawn)
        name, answer = (names[row, key], np.take_along_axis(value, key[..., None], 2)[..., 0])
        last, bound = (np.take_along_axis(x, key[..., None], 2)[..., 0] for x in (since, times))

        shape = (rows, self.length)
        inputs, targets, gap, often = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        asked = np.zeros(shape, dtype=bool)
        inputs[:, 0::2], inputs[:, 1::2] = np.where(asks, ASK, name), np.where(asks, name, answer)
        targets[:, 1::2], asked[:, 1::2] = answer, asks
        gap[:, 1::2], often[:, 1::2] = 2 * np.arange(steps) + 1 - last, bound
        facts = {"delay": torch.from_numpy(gap), "bound": torch.from_numpy(often)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), facts)

    def solve(self, inputs: Tensor) -> Tensor:
        rows, row = len(inputs), torch.arange(len(inputs))
        value = torch.full((rows, self.tokens), UNKNOWN)
        found = torch.full_like(inputs, UNKNOWN)
        for place in range(1, self.length, 2):
            first, second = inputs[:, place - 1], inputs[:, place]
            asks = first == ASK
            found[:, place] = torch.where(asks, value[row, second], UNKNOWN)
            value[row, first] = torch.where(asks, value[row, first], second)
        return self.answers(found)
