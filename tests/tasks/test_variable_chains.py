import re
from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("order", ["forward", "any"])
def test_the_value_is_found_by_following_the_assignments(order: str) -> None:
    batch = make(f"variable_chains:chains=3,hops=2,names=12,values=6,length=40,order={order}").batch(300, seed=0)
    backwards = 0
    assert (batch.asked == (torch.arange(40) >= 31)).all()
    facts = zip(batch.facts["hops"].tolist(), batch.facts["delay"].tolist(), strict=True)
    for tokens, targets, (hops, gap) in zip(batch.inputs.tolist(), batch.targets.tolist(), facts, strict=True):
        program, t = {}, 0
        while t < 31:
            if tokens[t]:
                assert tokens[t] not in program
                program[tokens[t]] = t + 1
                backwards += tokens[t + 1] <= 12 and tokens[t + 1] not in program
                t += 1
            t += 1
        assert sorted(tokens[31:]) == sorted(program) and len(program) == 9
        assert sum(tokens[at] > 12 for at in program.values()) == 3
        for t in range(31, 40):
            at, steps = program[tokens[t]], 0
            while tokens[at] <= 12:
                at, steps = program[tokens[at]], steps + 1
            assert (targets[t], hops[t], gap[t]) == (tokens[at], steps, t - at)
        assert len({targets[t] for t in range(31, 40)}) == 3
        assert Counter(hops[31:]) == {0: 3, 1: 3, 2: 3}
    assert (backwards > 0) == (order == "any")


def test_names_values_and_places_are_drawn_evenly() -> None:
    batch = make("variable_chains:chains=2,hops=1,names=6,values=4,length=16").batch(6000, seed=0)
    before = batch.inputs[:, :12]
    assert torch.allclose(torch.bincount(batch.inputs[:, 12:].flatten())[1:] / 24000, torch.tensor(1 / 6), atol=0.01)
    assert torch.allclose(torch.bincount(batch.targets[batch.asked])[7:] / 24000, torch.tensor(1 / 4), atol=0.015)
    assert torch.allclose(batch.facts["hops"][:, 12:].double().mean(0), torch.tensor(0.5).double(), atol=0.03)
    # four assignments of two tokens and four blanks: 8 over 4 ways, half of them begin with an assignment
    assert abs((before[:, 0] > 0).double().mean() - 0.5) < 0.03
    patterns = Counter(map(tuple, (before > 0).int().tolist()))
    assert len(patterns) == 70 and max(patterns.values()) < 2 * 6000 / 70
    # the two assignments of values: forward, of the six ways to mix two chains two begin with one chain whole
    values = (before > 6).int()
    order = torch.stack([row[token > 0][1::2] for row, token in zip(values, before, strict=True)])
    assert abs((order[:, 1] == 0).double().mean() - 1 / 3) < 0.03


def test_any_order_is_drawn_evenly() -> None:
    batch = make("variable_chains:chains=1,hops=2,names=3,values=2,order=any,length=9").batch(3000, seed=0)
    named = batch.inputs[:, [0, 2, 4]]
    depth = torch.stack(
        [
            batch.facts["hops"][row, 6:][(batch.inputs[row, 6:, None] == named[row]).int().argmax(0)]
            for row in range(3000)
        ]
    )
    found = Counter(map(tuple, depth.tolist()))
    assert len(found) == 6 and all(abs(n / 3000 - 1 / 6) < 0.03 for n in found.values())


def test_who_stops_at_the_first_assignment_knows_the_chains_beginnings_only() -> None:
    task = make("variable_chains")
    batch = task.batch(100, seed=0)
    right = task.score(task.replace(hops=0, chains=16).solve(batch.inputs), batch)  # pyright: ignore
    assert torch.equal(right == 1, batch.facts["hops"][batch.asked] == 0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("hops=8", "names=) must be at least chains * (hops + 1) = 36, a name for every variable; got 32"),
        ("chains=5,values=4", "values=) must be at least chains=5"),
        ("length=47", "length=) must be at least 3 * chains * (hops + 1) = 48"),
        ("hops=-1", "hops=) must be at least 0"),
        ("order=back", 'order=) is "forward" or "any"'),
    ],
)
def test_chains_that_cannot_be(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(f"variable_chains:{knobs}")
