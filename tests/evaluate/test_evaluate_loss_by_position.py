"""Loss by position on a model whose loss at each position is known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from evaluate_standins import BitsAt, counting_corpus

from mnemos.errors import DataError, InvalidValue
from mnemos.evaluate import loss_by_position
from mnemos.evaluate.loss_by_position import bucket_edges


def cost(position: int) -> float:
    return 1.0 + 2.0 / math.sqrt(1 + position)


def test_each_bucket_holds_the_mean_of_its_positions():
    measured = loss_by_position(BitsAt(cost), counting_corpus(9000, 4200), training_length=64, length=512)
    assert measured.windows == 8
    for bucket in measured.buckets:
        positions = range(bucket.first, bucket.last + 1)
        assert bucket.value.mean == pytest.approx(sum(map(cost, positions)) / len(positions), abs=1e-4)
    assert measured.within.mean == pytest.approx(sum(map(cost, range(32, 64))) / 32, abs=1e-4)
    assert measured.beyond.mean == pytest.approx(sum(map(cost, range(64, 512))) / 448, abs=1e-4)


@pytest.mark.parametrize(("training", "length"), [(64, 512), (256, 2048), (2, 3), (100, 777), (256, 65536)])
def test_buckets_cover_every_position_once_and_part_at_the_training_length(training: int, length: int):
    edges = bucket_edges(training, length)
    assert edges[0] == 0 and edges[-1] == length and training in edges
    assert edges == sorted(set(edges))
    assert all(a < b <= 2 * a + 1 for a, b in pairwise(edges[1:])) and edges[1] < 32


def test_bytes_per_token_scale_every_bucket():
    one = loss_by_position(BitsAt(cost), counting_corpus(9000, 4200), training_length=64)
    four = loss_by_position(BitsAt(cost), counting_corpus(9000, 4200, bytes_per_token=4), training_length=64)
    assert four.beyond.mean == pytest.approx(one.beyond.mean / 4)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InvalidValue, match="needs 2 <= training_length < length; got training_length=64, length=64"):
        loss_by_position(BitsAt(cost), counting_corpus(900, 400), training_length=64, length=64)
    with pytest.raises(DataError, match="has 400 tokens; two windows of 512 tokens are needed"):
        loss_by_position(BitsAt(cost), counting_corpus(900, 400), training_length=64, length=512)
