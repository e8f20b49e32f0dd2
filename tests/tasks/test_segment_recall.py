from __future__ import annotations

from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make

REMEMBER = "segment_recall:length=160,pairs=10,key_size=2"
REWRITE = "segment_recall:length=160,pairs=18,rewrites=12,value_size=2,symbols=5,segment=40,questions=3,key_size=2"


@pytest.mark.parametrize("line", [REMEMBER, REWRITE])
def test_the_last_value_told_of_a_key_is_the_answer(line: str) -> None:
    task = make(line)
    size, segment, pairs = task.value_size, task.segment, task.pairs  # pyright: ignore[reportAttributeAccessIssue]
    batch = task.batch(200, seed=0)
    for row, tokens in enumerate(batch.inputs.tolist()):
        told: dict[tuple[int, ...], list[int]] = {}
        asked: set[tuple[int, ...]] = set()
        in_segment: Counter[int] = Counter()
        questions = set()
        for colon in (place for place, token in enumerate(tokens) if token == 1):
            key = tuple(tokens[colon - 2 : colon])
            assert min(key) >= 3 and tokens[colon + size + 1] == 2
            if colon < 160 - segment:
                told.setdefault(key, []).append(colon)
                in_segment[colon // segment] += 1
                continue
            assert key not in asked
            asked.add(key)
            last = told[key][-1]
            for place in range(size):
                at = (row, colon + place)
                questions.add(at[1])
                assert batch.targets[at] == tokens[last + 1 + place]
                assert batch.facts["delay"][at] == colon - last - 1
                assert batch.facts["segments"][at] == colon // segment - last // segment
                assert batch.facts["rewrites"][at] == len(told[key]) - 1
        assert questions == set(batch.asked[row].nonzero()[:, 0].tolist())
        assert len(asked) == task.questions  # pyright: ignore[reportAttributeAccessIssue]
        assert sum(map(len, told.values())) == pairs
        assert len(told) == pairs - task.rewrites  # pyright: ignore[reportAttributeAccessIssue]
        counts = [in_segment[i] for i in range(160 // segment - 1)]
        assert max(counts) - min(counts) <= 1
        rest = [token for token in tokens if token != 0]
        assert len(rest) == (pairs + len(asked)) * (4 + size)


def test_keys_values_and_rewritings_are_drawn_evenly() -> None:
    batch = make(REWRITE).batch(2000, seed=1)
    values = torch.bincount(batch.targets[batch.asked] - 3, minlength=5) / int(batch.asked.sum())
    assert float((values - 0.2).abs().max()) < 0.02
    # twelve rewritings of six keys: those of one are binomial, with mean 2 and variance 12 / 6 * 5 / 6
    rewrites = batch.facts["rewrites"][batch.asked].double()
    assert abs(float(rewrites.mean()) - 2) < 0.08 and abs(float(rewrites.var()) - 5 / 3) < 0.12
    batch = make(REMEMBER).batch(2000, seed=2)
    segments = torch.bincount(batch.facts["segments"][batch.asked], minlength=5)[1:] / int(batch.asked.sum())
    expected = torch.tensor([0.2, 0.3, 0.2, 0.3])  # 3, 2, 3 and 2 pairs of 10, the last segment one ago
    assert float((segments - expected).abs().max()) < 0.02
    assert int(batch.facts["rewrites"].max()) == 0


def test_who_keeps_the_first_value_fails_where_it_was_rewritten() -> None:
    task = make("segment_recall:pairs=12,rewrites=6,questions=6,key_size=2")
    batch = task.batch(400, seed=3)
    outputs = torch.zeros(*batch.inputs.shape, task.outputs)
    for row, tokens in enumerate(batch.inputs.tolist()):
        colons = [place for place, token in enumerate(tokens) if token == 1]
        for at in batch.asked[row].nonzero()[:, 0].tolist():
            first = next(c for c in colons if tokens[c - 2 : c] == tokens[at - 2 : at])
            outputs[row, at, tokens[first + 1]] = 1
    scores = task.score(outputs, batch)
    rewritten = batch.facts["rewrites"][batch.asked] > 0
    assert scores[~rewritten].min() == 1 and abs(float(scores[rewritten].mean()) - 1 / 16) < 0.03


def test_longer_sequences_have_more_segments_and_no_more_pairs() -> None:
    task = make("segment_recall:pairs=12,questions=4")
    long = task.at_length(65536)
    batch = long.batch(3, seed=0)
    assert ((batch.inputs == 1).sum(1) == 16).all() and int(batch.facts["segments"].max()) > 1500
    assert long.score(long.solve(batch.inputs), batch).min() == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("length=100", "two or more times segment=32; got 100"),
        ("length=32", "two or more times segment=32; got 32"),
        ("pairs=20,key_size=2", r"segment=\) must be at least 35: one holds 7 pairs"),
        ("pairs=12,questions=9", r"segment=\) must be at least 36: one holds 9 pairs or questions"),
        ("pairs=12,questions=4,rewrites=9", "at most pairs - rewrites = 3"),
        ("pairs=12,rewrites=12,key_size=2", r"must leave from 1 to symbols\*\*key_size = 256 of pairs=12"),
        ("pairs=12,symbols=3", "from 1 to .* = 3 of pairs=12"),
    ],
)
def test_segments_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make("segment_recall:" + line)
