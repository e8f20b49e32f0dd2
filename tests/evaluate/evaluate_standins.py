"""Models whose every number can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mnemos.evaluate import BitsPerByte, Continuation, Piece, loss_by_position
from mnemos.evaluate.demo_results import Demonstration, Learned, Sample, System, Text
from mnemos.evaluate.estimate import estimate
from mnemos.evaluate.streaming import summary
from mnemos.train.corpus import Corpus


@dataclass(frozen=True)
class Seen:
    """A state that is the number of tokens seen, and pretends to take `nbytes`."""

    count: int
    nbytes: int = 8


class BitsAt:
    """Gives each next token exactly `cost(position)` bits, whatever the token, and remembers its position.

    The true next token must be `(token + 1) % vocabulary` for that; `counting_corpus` is such a text.
    """

    def __init__(self, cost, vocabulary: int = 16, bytes_at=lambda count: 8):
        self.cost, self.vocabulary, self.bytes_at = cost, vocabulary, bytes_at
        self.calls: list[tuple[int, int]] = []

    def __call__(self, tokens: Tensor, state: Seen | None = None) -> tuple[Tensor, Seen]:
        self.calls.append(tuple(tokens.shape))
        before = 0 if state is None else state.count
        positions = before + torch.arange(tokens.shape[1])
        right = torch.tensor([2.0 ** -self.cost(p) for p in positions.tolist()])
        wrong = (1 - right) / (self.vocabulary - 1)
        following = (tokens + 1) % self.vocabulary
        hit = torch.nn.functional.one_hot(following, self.vocabulary).bool()
        probabilities = torch.where(hit, right[None, :, None], wrong[None, :, None])
        after = before + tokens.shape[1]
        return probabilities.log(), Seen(after, self.bytes_at(after))


def counting_corpus(tokens: int, held_out: int, vocabulary: int = 16, bytes_per_token: float = 1.0) -> Corpus:
    """0, 1, 2, ... modulo the vocabulary, of which the last `held_out` are held out."""
    return Corpus(
        tokens=(np.arange(tokens) % vocabulary).astype(np.uint16),
        split=tokens - held_out,
        starts=np.array([0]),
        bytes_per_token=bytes_per_token,
        fingerprint="counting",
    )


def made_up_comparison() -> Demonstration:
    """Two systems with smooth made-up numbers, every one of them recognisable."""
    return Demonstration(
        systems=(
            made_up_system("one", "The First System", 0.0),
            made_up_system("two", "The <Second> System", 0.12),
        ),
        text=Text("the made-up text", 8_123_456, 412_345, "bytes", "the held-out text"),
        steps=640,
        length=256,
        batch=16,
        cache_bytes_per_token=8192,
        environment={"python": "3.11.7", "processor": "A Made-up Processor"},
        commands=("mnemos demo --out demo-run",),
    )


def made_up_system(name: str, title: str, worse: float) -> System:
    """A system `worse` bits per byte worse than the best."""
    learned = [Learned(40 * k, 40 * k * 4096, 13.1 * k, 2.0 + worse + 4 / (1 + k) ** 1.3) for k in range(1, 17)]
    by_window = tuple(2.1 + worse + 0.3 * math.sin(3 * k) + worse / 10 * math.cos(5 * k) for k in range(64))

    def model(tokens: Tensor, state: Seen | None = None) -> tuple[Tensor, Seen]:
        return BitsAt(lambda p: 2.0 + worse + (p % 7) / 20 + 3 / (1 + p) ** 0.5, vocabulary=64)(tokens, state)

    position = loss_by_position(model, counting_corpus(80000, 40000, 64), training_length=256, tokens=16384)
    pieces = tuple(
        Piece(2048 * (k + 1), 1e-4 * (1 + worse + 0.1 * math.sin(k * k)), 66_560 if worse else 131_072, 2.0)
        for k in range(98)
    )
    return System(
        name=name,
        title=title,
        explanation=f"LanguageModel {name}\n  layer 0: kernel for length 4096",
        parameters=1_234_567 if worse else 1_230_001,
        flops_per_token=2.5e6,
        training=tuple(learned),
        training_tokens_per_second=20_480.0,
        held_out=BitsPerByte(estimate(torch.tensor(by_window)), by_window, 256),
        by_position=position,
        streaming=summary(pieces),
        continuation=Continuation(4096, 4095, 140_000, 0.0, 2.25, 2.25, True),
        sample=Sample("def ", "main():\n    return '<&>'\n"),
    )
