import itertools
from collections import Counter

import pytest

from mnemos.errors import InvalidValue
from mnemos.tasks import make


def test_the_answers_are_the_symbols_by_falling_priority() -> None:
    batch = make("sorting:items=5,symbols=4,priorities=7,length=24").batch(200, seed=0)
    facts = batch.facts
    for tokens, targets, asked, delay, rank in zip(
        *(x.tolist() for x in (batch.inputs, batch.targets, batch.asked, facts["delay"], facts["rank"])), strict=True
    ):
        assert tokens[10:] == [11] * 8 + [12] + [11] * 5
        pairs = [(tokens[i], tokens[i + 1], i + 1) for i in range(0, 10, 2)]
        assert len({priority for priority, _, _ in pairs}) == 5
        assert all(4 <= priority < 11 and 0 <= symbol < 4 for priority, symbol, _ in pairs)
        pairs.sort(reverse=True)
        assert asked == [False] * 19 + [True] * 5
        assert targets[19:] == [symbol for _, symbol, _ in pairs]
        assert [19 + i - delay[19 + i] for i in range(5)] == [place for _, _, place in pairs]
        assert rank[19:] == [0, 1, 2, 3, 4]


def test_all_orders_and_all_priorities_are_equally_likely() -> None:
    batch = make("sorting:items=3,symbols=2,priorities=4,length=10").batch(12000, seed=0)
    found = Counter(tuple(row) for row in (batch.inputs[:, 0:6:2] - 2).tolist())
    assert set(found) == set(itertools.permutations(range(4), 3))
    assert all(abs(count / 12000 - 1 / 24) < 0.008 for count in found.values())
    assert abs(float(batch.targets[batch.asked].double().mean()) - 0.5) < 0.02


def test_sorting_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r"Sorting\(priorities=\) must be at least items=8.*got 7"):
        make("sorting:priorities=7")
    with pytest.raises(InvalidValue, match=r"Sorting\(length=\) must be at least 3 \* items \+ 1 = 25.*got 24"):
        make("sorting:length=24")
