import itertools
import re

import numpy as np
import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make
from mnemos.tasks.permutations import generators, products


def even(p: tuple[int, ...]) -> bool:
    """By its cycles rather than by its inversions."""
    seen: set[int] = set()
    swaps = 0
    for start in range(len(p)):
        at, size = start, 0
        while at not in seen:
            seen.add(at)
            at, size = p[at], size + 1
        swaps += max(size - 1, 0)
    return swaps % 2 == 0


@pytest.mark.parametrize("group", ["S3", "S5", "A4", "A5"])
def test_answers_are_where_the_things_come_to_lie(group: str) -> None:
    n = int(group[1])
    elements = [p for p in itertools.permutations(range(n)) if group[0] == "S" or even(p)]
    batch = make(f"permutations:group={group},length=20").batch(10, seed=0)
    assert batch.asked.all()
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        places = list(range(n))  # of each thing
        for token, target in zip(tokens, targets, strict=True):
            places = [elements[token][place] for place in places]
            assert elements[target] == tuple(places)


def test_a_cyclic_group_adds_and_pairs_move_side_by_side() -> None:
    batch = make("permutations:group=Z7,length=20").batch(10, seed=0)
    assert torch.equal(batch.targets, batch.inputs.cumsum(1) % 7)
    both, first, second = products("A4xZ5"), products("A4"), products("Z5")
    a, b = np.divmod(np.arange(60), 5)
    assert (both // 5 == first[a[:, None], a]).all() and (both % 5 == second[b[:, None], b]).all()


@pytest.mark.parametrize(
    ("group", "order"),
    [("S2", 2), ("S3", 6), ("S5", 120), ("A3", 3), ("A4", 12), ("A5", 60), ("Z60", 60), ("A4xZ5", 60)],
)
def test_it_is_a_group_and_the_generators_make_it(group: str, order: int) -> None:
    table = products(group)
    assert table.shape == (order, order)
    every = np.arange(order)
    assert (table[0] == every).all() and (table[:, 0] == every).all()
    assert (np.sort(table, 0) == every[:, None]).all() and (np.sort(table, 1) == every).all()
    some = np.random.default_rng(0).integers(0, order, (3, 500))
    a, b, c = some
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()
    made, moves = {0}, generators(group).tolist()
    while len(grown := made | {int(table[g, move]) for g in made for move in moves}) > len(made):
        made = grown
    assert len(made) == order
    assert len(moves) == {"S2": 2, "A3": 2, "Z60": 2, "A4xZ5": 4}.get(group, 3)


def test_only_the_abelian_groups_do_not_mind_the_order() -> None:
    for group, commutes in {"S3": False, "A5": False, "Z60": True, "A4xZ5": False}.items():
        assert (products(group) == products(group).T).all() == commutes


def test_the_order_of_the_tokens_matters() -> None:
    task = make("permutations:group=A5,length=64")
    batch = task.batch(100, seed=0)
    shuffled = batch.inputs[:, torch.randperm(64)]
    assert task.score(task.solve(shuffled), batch).mean() < 0.03


def test_elements_are_drawn_evenly_and_so_are_the_answers() -> None:
    batch = make("permutations:length=30").batch(2000, seed=0)
    for drawn in (batch.inputs, batch.targets[:, :5], batch.targets[:, -5:]):
        assert torch.allclose(torch.bincount(drawn.flatten()) / drawn.numel(), torch.tensor(1 / 6), atol=0.015)


@pytest.mark.parametrize("group", ["S3", "Z5", "A4"])
def test_chance_with_generators_is_the_share_of_the_likeliest_element(group: str) -> None:
    task = make(f"permutations:group={group},tokens=generators,length=6")
    batch = task.batch(20000, seed=0)
    assert set(batch.inputs.unique().tolist()) == set(generators(group).tolist())
    shares = [torch.bincount(batch.targets[:, t]).max() / 20000 for t in range(6)]
    assert abs(float(torch.stack(shares).mean()) - task.chance) < 0.01


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("group=D4", "such as S5 or A4xZ5; got 'D4'"),
        ("group=A2", "An (n of 3 or more)"),
        ("group=S1", "Sn (n of 2 or more)"),
        ("group=S7", "at most 720 elements, each a token; S7 has 5040"),
        ("group=A5xZ60", "A5xZ60 has 3600"),
        ("tokens=swaps", 'tokens=) is "elements" or "generators"; got \'swaps\''),
    ],
)
def test_groups_that_cannot_be(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(f"permutations:{knobs}")
