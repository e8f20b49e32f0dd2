import itertools
import re
from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make
from mnemos.tasks.automaton import Automaton


def run(table: dict[tuple[int, int], int], state: int, symbols: list[int]) -> list[int]:
    return [state := table[state, symbol] for symbol in symbols]


@pytest.mark.parametrize("moves", ["permutations", "any"])
def test_a_fixed_automaton_is_the_same_for_all(moves: str) -> None:
    task = make(f"automaton:moves={moves},states=5,symbols=3,length=40,seed=7")
    assert isinstance(task, Automaton)
    table = {(q + 3, a): int(task.transitions[q, a]) + 3 for q in range(5) for a in range(3)}
    batch = task.batch(30, seed=0)
    assert (batch.asked == (torch.arange(40) > 0)).all()
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert targets[1:] == run(table, tokens[0], tokens[1:])
    assert len({task.replace(seed=seed).transitions.tobytes() for seed in range(8)}) > 6  # pyright: ignore
    assert batch.facts["steps"][2].tolist() == list(range(40))


@pytest.mark.parametrize("moves", ["permutations", "any"])
def test_a_given_automaton_is_shown_whole(moves: str) -> None:
    task = make(f"automaton:table=given,moves={moves},states=3,symbols=2,length=40")
    batch = task.batch(200, seed=0)
    assert (batch.asked == (torch.arange(40) > 18)).all()
    tables, orders = set(), set()
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        listed = [tuple(tokens[t : t + 3]) for t in range(0, 18, 3)]
        table = {(q, a): after for q, a, after in listed}
        assert set(table) == set(itertools.product([2, 3, 4], [0, 1]))
        if moves == "permutations":
            assert all({table[q, a] for q in (2, 3, 4)} == {2, 3, 4} for a in (0, 1))
        for start in (2, 3, 4):
            reached = {start}
            for _ in range(3):
                reached |= {table[q, a] for q in reached for a in (0, 1)}
            assert reached == {2, 3, 4}
        assert targets[19:] == run(table, tokens[18], tokens[19:])
        tables.add(tuple(sorted(table.items())))
        orders.add(tuple((q, a) for q, a, _ in listed))
    assert len(tables) > 20 and len(orders) > 100


def test_connected_tables_are_drawn_evenly() -> None:
    batch = make("automaton:table=given,moves=any,states=2,length=40").batch(4500, seed=0)
    triples = batch.inputs[:, :12].reshape(-1, 4, 3)
    order = (triples[..., 0] * 2 + triples[..., 1]).argsort(1)
    found = Counter(map(tuple, triples[..., 2].gather(1, order).tolist()))
    # of 16 tables, 3 in 4 lead out of the one state, and as many out of the other
    assert len(found) == 9 and all(abs(n / 4500 - 1 / 9) < 0.02 for n in found.values())


def test_first_states_symbols_and_answers_are_drawn_evenly() -> None:
    batch = make("automaton:table=given,moves=any,symbols=3,length=60").batch(3000, seed=0)
    for drawn, number in ((batch.inputs[:, 36] - 3, 4), (batch.inputs[:, 37:], 3), (batch.targets[:, 37:] - 3, 4)):
        shares = torch.bincount(drawn.flatten(), minlength=number) / drawn.numel()
        assert torch.allclose(shares, torch.tensor(1 / number), atol=0.03)


def test_the_first_state_matters_to_the_end_where_symbols_permute_and_seldom_where_not() -> None:
    for moves in ("permutations", "any"):
        task = make(f"automaton:table=given,moves={moves},length=200")
        batch = task.batch(200, seed=0)
        other = batch.inputs.clone()
        other[:, 24] = 2 + (other[:, 24] - 1) % 4
        same = task.score(task.solve(other), batch).reshape(200, 175)[:, -1].mean()
        assert same == 0 if moves == "permutations" else same > 0.8


def test_the_look_at_the_last_symbol_pays_with_a_fixed_table_of_any_moves_only() -> None:
    for moves in ("permutations", "any"):
        task = make(f"automaton:moves={moves},seed=3")
        batch = task.batch(300, seed=0)
        last, answers = batch.inputs[batch.asked], batch.targets[batch.asked]
        right = sum(int(torch.bincount(answers[last == a]).max()) for a in (0, 1)) / len(answers)
        assert (right > task.chance + 0.03) == (moves == "any")


def test_chance_is_the_share_of_the_likeliest_state_at_each_place() -> None:
    task = make("automaton:moves=any,states=6,length=12,seed=1")
    batch = task.batch(20000, seed=0)
    shares = [torch.bincount(batch.targets[:, t]).max() / 20000 for t in range(1, 12)]
    assert abs(float(torch.stack(shares).mean()) - task.chance) < 0.01 and task.chance > 0.2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("states=17", "states=) must be at most 16"),
        ("states=1", "states=) must be at least 2"),
        ("symbols=1", "symbols=) must be at least 2"),
        ("seed=-1", "seed=) must be at least 0"),
        ("table=hidden", 'table=) is "fixed" or "given"'),
        ("moves=some", 'moves=) is "permutations" or "any"'),
        ("table=given,length=25", "length=) must be at least 26: 24 tokens for the table"),
    ],
)
def test_automata_that_cannot_be(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(f"automaton:{knobs}")
