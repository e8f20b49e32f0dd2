import re

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("indirections", [0, 1, 3])
@pytest.mark.parametrize("length", [40, 41])
def test_a_python_list_gives_the_same(indirections: int, length: int) -> None:
    task = make(f"random_access:cells=4,values=5,writes=0.5,indirections={indirections},length={length}")
    batch = task.batch(100, seed=0)
    start = 4 * indirections
    for row, (tokens, targets) in enumerate(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)):
        pointers = [tokens[4 * d : 4 * d + 4] for d in range(indirections)]
        cells = tokens[start : start + 4]
        history = [[start + i] for i in range(4)]
        assert all(4 <= value < 9 for value in cells) and all(p < 4 for array in pointers for p in array)
        asked = set()
        for t in range(start + 4, length - 1, 2):
            index, second = tokens[t : t + 2]
            assert index < 4
            for array in pointers:
                index = array[index]
            if second == 9:
                asked.add(t + 1)
                assert targets[t + 1] == cells[index]
                assert batch.facts["delay"][row, t + 1] == t + 1 - history[index][-1]
                assert batch.facts["overwritten"][row, t + 1] == len(history[index]) - 1
            else:
                assert 4 <= second < 9
                cells[index] = second
                history[index].append(t + 1)
        assert set(batch.asked[row].nonzero()[:, 0].tolist()) == asked
        assert second == 9


def test_reads_indices_and_values_are_drawn_evenly() -> None:
    batch = make("random_access:cells=4,values=5,writes=0.3,length=44").batch(2000, seed=0)
    second, first = batch.inputs[:, 5::2], batch.inputs[:, 4::2]
    assert abs((second[:, :-1] == 9).double().mean() - 0.7) < 0.01 and (second[:, -1] == 9).all()
    assert torch.allclose(torch.bincount(first.flatten()) / first.numel(), torch.tensor(1 / 4), atol=0.01)
    for values in (batch.inputs[:, :4], second[second != 9], batch.targets[batch.asked]):
        assert torch.allclose(torch.bincount(values.flatten())[4:] / values.numel(), torch.tensor(1 / 5), atol=0.02)


def test_nothing_is_overwritten_where_nothing_is_written() -> None:
    batch = make("random_access:writes=0").batch(20, seed=0)
    assert (batch.asked == ((torch.arange(64) >= 8) & (torch.arange(64) % 2 == 1))).all()
    assert not batch.facts["overwritten"][batch.asked].any()


def test_the_place_in_the_array_is_the_index() -> None:
    task = make("random_access:writes=0")
    batch = task.batch(200, seed=0)
    moved = batch.inputs.clone()
    moved[:, :8] = moved[:, :8].roll(1, 1)
    assert task.score(task.solve(moved), batch).mean() < 0.1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("cells=1", "cells=) must be at least 2"),
        ("writes=1.0", "writes=) must be in [0, 1); got 1.0"),
        ("writes=-0.1", "writes=) must be in [0, 1)"),
        ("cells=20,indirections=3", "length=) must be at least 82: cells * (indirections + 1) = 80 tokens"),
        ("indirections=-1", "indirections=) must be at least 0"),
    ],
)
def test_access_that_cannot_be(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(f"random_access:{knobs}")
