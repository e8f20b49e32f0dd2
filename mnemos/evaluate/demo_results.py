"""Everything measured of systems trained alike: what the report shows and `results.json` holds."""

from __future__ import annotations

from dataclasses import dataclass

from mnemos.evaluate.bits_per_byte import BitsPerByte
from mnemos.evaluate.continuation import Continuation
from mnemos.evaluate.loss_by_position import LossByPosition
from mnemos.evaluate.result import Result
from mnemos.evaluate.streaming import Streaming


@dataclass(frozen=True)
class Learned(Result):
    """One evaluation on held-out text during training."""

    step: int
    tokens: int
    seconds: float
    bits_per_byte: float


@dataclass(frozen=True)
class Sample(Result):
    """A text that the model was given, and how it went on."""

    prompt: str
    text: str


@dataclass(frozen=True)
class System(Result):
    """One trained model and all that was measured of it."""

    name: str
    title: str
    explanation: str
    parameters: int
    flops_per_token: float
    training: tuple[Learned, ...]
    training_tokens_per_second: float
    held_out: BitsPerByte
    by_position: LossByPosition
    streaming: Streaming
    continuation: Continuation
    sample: Sample


@dataclass(frozen=True)
class Text(Result):
    """The text that was learned and read."""

    source: str
    training_tokens: int
    held_out_tokens: int
    tokenizer: str
    streamed: str
    """Which text the streams read."""


@dataclass(frozen=True)
class Demonstration(Result):
    """Systems trained on the same tokens; the first is the one that the report is about."""

    systems: tuple[System, ...]
    text: Text
    steps: int
    length: int
    batch: int
    cache_bytes_per_token: int
    """Bytes by which the key-value cache of full attention of this width and depth grows with each token."""
    environment: dict[str, str]
    commands: tuple[str, ...]
