from collections import Counter
from pathlib import Path

import pytest
import torch

from mnemos.errors import DataError, InvalidValue
from mnemos.tasks import make
from mnemos.tasks.text import text_bytes

FIRST, SECOND, ASK = 256, 257, 258


@pytest.mark.parametrize("segment", [2, 10])
def test_which_segment_came_first_in_real_text(segment: int) -> None:
    task = make("sequence_order:length=90", segment=segment)
    shown = 90 - 2 * segment - 3
    source = text_bytes("stdlib").tobytes()
    batch = task.batch(60, seed=0)
    for tokens, targets, asked, delay, distance in zip(
        *(
            x.tolist()
            for x in (batch.inputs, batch.targets, batch.asked, batch.facts["delay"], batch.facts["distance"])
        ),
        strict=True,
    ):
        assert asked == [False] * 89 + [True]
        text = bytes(tokens[:shown])
        assert text in source
        assert (tokens[shown], tokens[shown + segment + 1], tokens[-1]) == (FIRST, SECOND, ASK)
        a, b = bytes(tokens[shown + 1 : shown + 1 + segment]), bytes(tokens[shown + segment + 2 : -1])
        starts = [i for i in range(shown) if text[i : i + segment] in (a, b)]
        assert len(starts) == 2 and starts[1] - starts[0] >= segment
        assert targets[-1] == (FIRST if text.index(a) < text.index(b) else SECOND)
        assert delay[-1] == 89 - starts[0] and distance[-1] == starts[1] - starts[0]


def test_all_pairs_of_places_and_both_orders_are_equally_likely(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefgh")
    batch = make("sequence_order:segment=2,length=12", text=str(tmp_path / "text")).batch(12000, seed=0)
    found = Counter(tuple(row) for row in batch.inputs[:, [6, 9]].tolist())
    apart = {(a, b) for a in range(97, 104) for b in range(97, 104) if 2 <= abs(a - b) <= 3}
    assert set(found) <= apart
    by_distance = Counter(batch.facts["distance"][:, -1].tolist())
    # five bytes have four places for a segment: (0, 2), (1, 3) and (0, 3)
    assert abs(by_distance[2] / 12000 - 2 / 3) < 0.02 and abs(by_distance[3] / 12000 - 1 / 3) < 0.02
    assert abs(float((batch.targets[:, -1] == FIRST).double().mean()) - 0.5) < 0.02
    starts = batch.inputs[:, 0].bincount()[97:] / 12000
    assert torch.allclose(starts, torch.full((4,), 0.25), atol=0.02)


def test_segments_that_stand_more_than_once_are_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("aaaaaaaaaaaaabaaaaaaaaaaaaacaaaaaaaaaaaa")
    batch = make("sequence_order:segment=3,length=49", text=str(tmp_path / "text")).batch(30, seed=0)
    for row in batch.inputs:
        segments = {bytes(row[41:44].tolist()), bytes(row[45:48].tolist())}
        assert any(b"b" in part for part in segments) and any(b"c" in part for part in segments)


def test_a_text_without_the_segments_says_nothing() -> None:
    task = make("sequence_order")
    inputs = task.batch(20, seed=0).inputs
    inputs[:, :221] = inputs[:, :221].flip(1)
    assert (task.solve(inputs) == 0).all()


def test_sequence_order_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"SequenceOrder\(length=\) must be at least 4 \* segment \+ 3 = 67.*got 66"):
        make("sequence_order:length=66")
    (tmp_path / "short").write_text("short")
    with pytest.raises(DataError, match=r"short holds 5 bytes of text; sequences of this length show 221"):
        make("sequence_order", text=str(tmp_path / "short")).batch(1, seed=0)
    (tmp_path / "same").write_text("a" * 300)
    with pytest.raises(DataError, match="same repeats itself so much that segments of 16 bytes do not differ"):
        make("sequence_order", text=str(tmp_path / "same")).batch(1, seed=0)
    with pytest.raises(DataError, match=r"there is no data at .*nowhere"):
        make("sequence_order", text=str(tmp_path / "nowhere")).batch(1, seed=0)
