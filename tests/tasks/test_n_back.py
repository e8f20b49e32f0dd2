import pytest

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("symbols", [2, 5])
def test_yes_where_the_token_is_that_of_n_ago(n: int, symbols: int) -> None:
    task = make("n_back:length=30", n=n, symbols=symbols, lures=0.5)
    batch = task.batch(60, seed=0)
    lured = 0
    for tokens, targets, asked, match, lure in zip(
        *(x.tolist() for x in (batch.inputs, batch.targets, batch.asked, batch.facts["match"], batch.facts["lure"])),
        strict=True,
    ):
        assert all(0 <= token < symbols for token in tokens)
        assert asked == [False] * n + [True] * (30 - n)
        for t in range(n, 30):
            same = tokens[t] == tokens[t - n]
            assert targets[t] == symbols + same and match[t] == same
            if lure[t]:
                near = [] if n == 1 else [tokens[t - n + 1]]
                far = [] if t == n else [tokens[t - n - 1]]
                assert not same and tokens[t] in near + far
                lured += 1
    assert lured > 100


def test_shares_of_matches_and_lures() -> None:
    """A lure is possible only where its token differs from the one n ago; with n = 1 that one is x_(t-2), which
    differs from x_(t-1) where there was no match."""
    batch = make("n_back:n=1,matches=0.25,lures=0.5,symbols=8,length=400").batch(200, seed=0)
    match, lure = batch.facts["match"][:, 2:].bool(), batch.facts["lure"][:, 2:].bool()
    assert abs(float(match.double().mean()) - 0.25) < 0.01
    possible = ~batch.facts["match"][:, 1:-1].bool()
    assert abs(float(lure.double().mean()) - 0.75 * 0.5 * 0.75) < 0.01
    assert not (lure & ~possible).any()
    both = make("n_back:n=3,matches=0,lures=1,symbols=50,length=400").batch(100, seed=0).inputs[:, 4:]
    start = make("n_back:n=3,matches=0,lures=1,symbols=50,length=400").batch(100, seed=0).inputs
    near, far = both == start[:, 2:-2], both == start[:, :-4]
    assert 0.3 < float((near & ~far).double().mean()) / float((near ^ far).double().mean()) < 0.7


def test_having_seen_it_of_late_is_no_sign_with_lures_but_is_one_without() -> None:
    def by_familiarity(lures: float) -> float:
        task = make("n_back:n=2,symbols=8,length=200", lures=lures)
        batch = task.batch(100, seed=0)
        x = batch.inputs
        familiar = (x[:, 3:] == x[:, 2:-1]) | (x[:, 3:] == x[:, 1:-2]) | (x[:, 3:] == x[:, :-3])
        return float((familiar == batch.facts["match"][:, 3:].bool()).double().mean())

    assert by_familiarity(0.0) > 0.85
    assert by_familiarity(1.0) < 0.7


@pytest.mark.parametrize(("matches", "chance"), [(0.25, 0.75), (0.5, 0.5), (0.8, 0.8)])
def test_chance_is_the_commoner_answer(matches: float, chance: float) -> None:
    assert make("n_back", matches=matches).chance == chance


def test_n_back_that_cannot_be() -> None:
    for line, message in (
        ("n_back:n=128", r"NBack\(length=\) must be more than n=128; got 128"),
        ("n_back:matches=1.5", r"NBack\(matches=\) is a probability in \[0, 1\]; got 1.5"),
        ("n_back:lures=-0.1", r"NBack\(lures=\) is a probability"),
        ("n_back:n=0", r"NBack\(n=\) must be at least 1"),
    ):
        with pytest.raises(InvalidValue, match=message):
            make(line)
