"""What one more token costs after many: seconds, bytes of state and bits, along a stream that never ends."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import DataError, InvalidValue
from mnemos.evaluate.result import Result
from mnemos.evaluate.windows import Model, device_of, measuring, token_bits
from mnemos.train.corpus import Corpus


@dataclass(frozen=True)
class Piece(Result):
    """One piece of the stream: where it ends, what a token cost, what is carried on, how well it was read."""

    tokens: int
    """Read so far, this piece included."""
    seconds_per_token: float
    state_bytes: int
    bits_per_byte: float


@dataclass(frozen=True)
class Streaming(Result):
    """A stream read in pieces with the state carried, and whether its cost and its state stayed flat."""

    pieces: tuple[Piece, ...]
    tokens: int
    piece: int
    early_seconds_per_token: float
    """Median over the first quarter of the pieces."""
    late_seconds_per_token: float
    """Median over the last quarter of the pieces."""
    late_over_early: float
    state_bytes: int
    """After the last piece."""
    state_constant: bool
    """Whether every piece left the same number of bytes."""
    tokens_per_second: float
    bits_per_byte: float


def streaming(model: Model, tokens: Tensor, *, piece: int = 2048, bytes_per_token: float = 1.0) -> Streaming:
    """Read `tokens` (count,) int64 as one stream, `piece` at a time, carrying the state, measured.

    bytes_per_token: bytes of text that a token stands for, on average (`Corpus.bytes_per_token`).

    Raises:
        InvalidValue: piece below 1.
        DataError: fewer than four pieces of tokens, too few to compare early with late.
    """
    if piece < 1:
        raise InvalidValue(f"a piece of a stream has at least one token; piece={piece} given.")
    count = (tokens.numel() - 1) // piece
    if count < 4:
        raise DataError(
            f"streaming compares early with late and needs at least 4 pieces of {piece:,} tokens, "
            f"{4 * piece + 1:,} in all; {tokens.numel():,} given. Give more text or a smaller piece."
        )
    from tqdm import tqdm

    device, state, pieces = device_of(model), None, []
    bar = tqdm(total=count * piece, desc="streaming", unit="token", unit_scale=True, leave=False, disable=None)
    with measuring(model), bar:
        for begin in range(0, count * piece, piece):
            inputs = tokens[None, begin : begin + piece].to(device)
            targets = tokens[None, begin + 1 : begin + piece + 1].to(device)
            seconds, logits, state = timed(model, inputs, state)
            needed = token_bits(logits, targets).mean().item() / bytes_per_token
            pieces.append(Piece(begin + piece, seconds / piece, state.nbytes, needed))
            bar.update(piece)
    return summary(tuple(pieces))


def held_out_stream(corpus: Corpus, count: int) -> Tensor:
    """`count` tokens of held-out text as one stream (count,) int64, begun anew where the text is shorter."""
    return torch.from_numpy(np.resize(corpus.held_out, count).astype(np.int64))


def timed(model: Model, inputs: Tensor, state: Any) -> tuple[float, Tensor, Any]:
    """Seconds of one call, its logits and its state."""
    begin = time.perf_counter()
    logits, state = model(inputs, state)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - begin, logits, state


def summary(pieces: tuple[Piece, ...]) -> Streaming:
    """What the pieces say together; medians, as one slow piece is the machine's, not the model's."""
    quarter = max(len(pieces) // 4, 1)
    early = median(p.seconds_per_token for p in pieces[:quarter])
    late = median(p.seconds_per_token for p in pieces[-quarter:])
    return Streaming(
        pieces=pieces,
        tokens=pieces[-1].tokens,
        piece=pieces[0].tokens,
        early_seconds_per_token=early,
        late_seconds_per_token=late,
        late_over_early=late / early,
        state_bytes=pieces[-1].state_bytes,
        state_constant=len({p.state_bytes for p in pieces}) == 1,
        tokens_per_second=1 / median(p.seconds_per_token for p in pieces),
        bits_per_byte=sum(p.bits_per_byte for p in pieces) / len(pieces),
    )
