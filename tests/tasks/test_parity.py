import re

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("asked", ["every", "last"])
def test_parity_counts_the_ones(asked: str) -> None:
    batch = make(f"parity:asked={asked},length=70").batch(40, seed=0)
    for tokens, targets, questions in zip(batch.inputs.tolist(), batch.targets.tolist(), batch.asked, strict=True):
        places = questions.nonzero()[:, 0].tolist()
        assert places == ([69] if asked == "last" else list(range(70)))
        assert all(targets[t] == sum(tokens[: t + 1]) % 2 for t in places)
    assert (batch.facts["steps"][3] == torch.arange(1, 71)).all()


def test_parity_of_bits_in_another_order_is_another_but_for_the_last() -> None:
    task = make("parity:length=64")
    batch = task.batch(200, seed=0)
    shuffled = batch.inputs[:, torch.randperm(64)]
    right = task.score(task.solve(shuffled), batch).reshape(200, 64)
    assert abs(right[:, 8:56].mean() - 0.5) < 0.05 and (right[:, -1] == 1).all()


def test_bits_are_fair_and_so_are_their_parities() -> None:
    for line in ("parity", "n_parity:least=3,most=3,length=20"):
        batch = make(line).batch(4000, seed=0)
        bits = batch.inputs[~batch.asked] if line != "parity" else batch.inputs.flatten()
        assert abs(bits.double().mean() - 0.5) < 0.01
        assert abs(batch.targets[batch.asked].double().mean() - 0.5) < 0.04


def test_n_parity_asks_for_every_n_once_in_any_order() -> None:
    batch = make("n_parity:least=2,most=5,length=24").batch(600, seed=0)
    assert (batch.asked == (torch.arange(24) >= 20)).all()
    questions = batch.inputs[:, 20:]
    assert (questions.sort(1).values == torch.arange(2, 6)).all()
    assert len({tuple(row) for row in questions.tolist()}) == 24
    assert torch.equal(batch.facts["n"][batch.asked], questions.flatten())
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        for t in range(20, 24):
            assert targets[t] == sum(tokens[20 - tokens[t] : 20]) % 2


def test_n_parity_looks_at_the_last_bits_only_and_at_each() -> None:
    task = make("n_parity:least=4,most=4,length=17")
    batch = task.batch(50, seed=0)
    for place in range(16):
        changed = batch.inputs.clone()
        changed[:, place] = 1 - changed[:, place]
        right = task.score(task.solve(changed), batch)
        assert (right == (0 if place >= 12 else 1)).all(), place


def test_a_curriculum_of_growing_n_keeps_the_tokens() -> None:
    task = make("n_parity:most=2,names=9,length=20")
    sizes = {task.replace(most=n).vocabulary for n in range(2, 10)}  # pyright: ignore[reportArgumentType]
    assert sizes == {10}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("parity:asked=first", 'asked=) is "every" or "last"; got \'first\''),
        ("parity:length=1", "length=) must be at least 2"),
        ("n_parity:least=1", "least=) must be at least 2"),
        ("n_parity:least=7", "most=) must be from least=7 to names=32"),
        ("n_parity:most=33,length=90", "from least=2 to names=32"),
        ("n_parity:most=8,length=14", "length=) must be at least 15: most=8 bits and a question"),
    ],
)
def test_parities_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(line)


def test_the_shortest_n_parity_has_just_the_bits_it_asks_for() -> None:
    assert make("n_parity:most=8,length=15").batch(2, seed=0).asked.sum() == 14
