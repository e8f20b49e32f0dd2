"""The stream's measurements, and its summary on timings made up for the purpose."""

from __future__ import annotations

import pytest
import torch
from evaluate_standins import BitsAt

from mnemos.errors import DataError, InvalidValue
from mnemos.evaluate import Piece, Streaming, streaming
from mnemos.evaluate.streaming import summary


def pieces(seconds: list[float], state_bytes: list[int] | None = None) -> tuple[Piece, ...]:
    sizes = state_bytes or [100] * len(seconds)
    return tuple(Piece(10 * (i + 1), s, b, 2.0) for i, (s, b) in enumerate(zip(seconds, sizes, strict=True)))


def test_flat_timings_give_a_ratio_of_one_whatever_single_pieces_do():
    found = summary(pieces([9.0] + [1.0] * 14 + [7.0]))  # a slow first call and a hiccup at the end
    assert found.late_over_early == 1.0 and found.tokens_per_second == 1.0
    assert found.state_constant and found.state_bytes == 100 and found.tokens == 160 and found.piece == 10


def test_growing_timings_and_growing_states_are_seen():
    found = summary(pieces([float(i + 1) for i in range(16)], [100 + i for i in range(16)]))
    assert found.early_seconds_per_token == 2.5 and found.late_seconds_per_token == 14.5
    assert found.late_over_early == pytest.approx(5.8)
    assert not found.state_constant and found.state_bytes == 115


def test_the_stream_is_read_once_in_order_with_the_state_carried():
    model = BitsAt(lambda p: 1.0 if p < 64 else 2.0, bytes_at=lambda count: 8 * min(count, 32))
    found = streaming(model, torch.arange(130) % 16, piece=16)
    assert model.calls == [(1, 16)] * 8
    assert [p.tokens for p in found.pieces] == list(range(16, 129, 16))
    assert [p.bits_per_byte for p in found.pieces] == pytest.approx([1.0] * 4 + [2.0] * 4, abs=1e-4)
    assert found.bits_per_byte == pytest.approx(1.5, abs=1e-4)
    assert [p.state_bytes for p in found.pieces] == [128] + [256] * 7 and not found.state_constant
    assert all(p.seconds_per_token > 0 for p in found.pieces)
    assert Streaming.from_json(found.to_json()) == found


def test_too_short_streams_are_refused():
    with pytest.raises(DataError, match="at least 4 pieces of 16 tokens, 65 in all; 64 given"):
        streaming(BitsAt(lambda p: 1.0), torch.arange(64) % 16, piece=16)
    with pytest.raises(InvalidValue, match="at least one token; piece=0"):
        streaming(BitsAt(lambda p: 1.0), torch.arange(64) % 16, piece=0)
