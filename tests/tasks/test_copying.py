import itertools
from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize(
    "line", ["copy:items=3,symbols=4,length=15", "selective_copy:items=3,symbols=4,length=15", "copy", "selective_copy"]
)
def test_the_answers_are_the_symbols_before_go_in_their_order(line: str) -> None:
    task = make(line)
    batch = task.batch(50, seed=0)
    items, symbols = task.items, task.symbols  # pyright: ignore[reportAttributeAccessIssue]
    blank, go = symbols, symbols + 1
    for tokens, targets, asked, delay, item in zip(*rows(batch), strict=True):
        assert tokens.count(go) == 1 and tokens.index(go) == task.length - items - 1
        seen = [(place, token) for place, token in enumerate(tokens) if token < symbols]
        assert len(seen) == items and all(token in (blank, go) for token in tokens if token >= symbols)
        places = [place for place, is_asked in enumerate(asked) if is_asked]
        assert places == list(range(tokens.index(go) + 1, task.length))
        assert [targets[p] for p in places] == [token for _, token in seen]
        assert [p - delay[p] for p in places] == [place for place, _ in seen]
        assert [item[p] for p in places] == list(range(items))
        if line.startswith("copy"):
            assert [place for place, _ in seen] == list(range(items))


def rows(batch) -> list[list[list[int]]]:
    facts = batch.facts
    return [x.tolist() for x in (batch.inputs, batch.targets, batch.asked, facts["delay"], facts["item"])]


def test_all_choices_of_places_are_equally_likely() -> None:
    inputs = make("selective_copy:items=2,symbols=3,length=8").batch(12000, seed=0).inputs
    found = Counter(tuple((row[:5] < 3).nonzero()[:, 0].tolist()) for row in inputs)
    assert set(found) == set(itertools.combinations(range(5), 2))
    assert all(abs(count / 12000 - 0.1) < 0.012 for count in found.values())


@pytest.mark.parametrize("line", ["copy:items=4,symbols=3", "selective_copy:items=4,symbols=3"])
def test_symbols_are_drawn_evenly_and_may_repeat(line: str) -> None:
    batch = make(line).batch(3000, seed=0)
    answers = batch.targets[batch.asked].view(-1, 4)
    for place in range(4):
        assert torch.allclose(answers[:, place].bincount() / 3000, torch.full((3,), 1 / 3), atol=0.04)
    assert abs(float((answers[:, 0] == answers[:, 1]).double().mean()) - 1 / 3) < 0.04


def test_copies_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r"Copying\(length=\) must be at least 2 \* items \+ 1 = 21.*got 20"):
        make("copy:length=20")
    with pytest.raises(InvalidValue, match=r"SelectiveCopying\(length=\) must be at least .* = 33"):
        make("selective_copy:length=32")
    with pytest.raises(InvalidValue, match=r"Copying\(symbols=\) must be at least 2"):
        make("copy:symbols=1")
