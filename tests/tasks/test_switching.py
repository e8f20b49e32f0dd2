"""Switching sources, and the codes that they are measured against."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import krichevsky_trofimov, make, partition_tree_weighting


def marginal(tokens: list[int], symbols: int, concentration: float = 0.5) -> float:
    """The log-probability of the tokens of one source, its probabilities drawn from the Dirichlet distribution."""
    total = math.lgamma(symbols * concentration) - math.lgamma(symbols * concentration + len(tokens))
    for symbol in range(symbols):
        total += math.lgamma(concentration + tokens.count(symbol)) - math.lgamma(concentration)
    return total


def switched(tokens: list[int], symbols: int, hazard: float, concentration: float) -> float:
    """The probability of the tokens, summed over all times at which the source may have switched."""
    total = 0.0
    for switches in itertools.product((False, True), repeat=len(tokens) - 1):
        cuts = [0, *(i + 1 for i, switch in enumerate(switches) if switch), len(tokens)]
        parts = sum(marginal(tokens[a:b], symbols, concentration) for a, b in itertools.pairwise(cuts))
        total += math.exp(parts) * math.prod(hazard if switch else 1 - hazard for switch in switches)
    return total


@pytest.mark.parametrize(("symbols", "hazard", "concentration"), [(2, 0.1, 0.5), (3, 0.4, 2.0), (2, 1.0, 0.3)])
def test_the_solution_is_the_bayesian_mixture_over_all_switches(
    symbols: int, hazard: float, concentration: float
) -> None:
    task = make("switching", symbols=symbols, hazard=hazard, concentration=concentration, length=7)
    batch = task.batch(3, seed=0)
    for tokens, found in zip(batch.inputs.tolist(), task.solve(batch.inputs), strict=True):
        for place in range(7):
            past = tokens[: place + 1]
            here = switched(past, symbols, hazard, concentration)
            expected = [switched([*past, s], symbols, hazard, concentration) / here for s in range(symbols)]
            assert np.allclose(found[place].exp().numpy(), expected, atol=1e-6)


def test_forgotten_sources_make_no_difference() -> None:
    """Against the same sum over every time of the last switch, however long ago."""
    task = make("switching:hazard=0.3,length=400")  # a source is forgotten after 67 tokens
    batch = task.batch(2, seed=1)
    found = task.solve(batch.inputs).exp().double()
    for tokens, predicted in zip(batch.inputs.numpy(), found.numpy(), strict=True):
        ones = np.concatenate([[0], np.cumsum(tokens)])
        weight = np.array([1.0])
        for now in range(400):
            start = np.arange(now + 1)
            before = (ones[now] - ones[start] + 0.5) / (now - start + 1)
            weight = weight * np.where(tokens[now] == 1, before, 1 - before)
            weight = np.append(0.7 * weight, 0.3 * weight.sum()) / weight.sum()
            start = np.arange(now + 2)
            one = float((weight * (ones[now + 1] - ones[start] + 0.5) / (now + 1 - start + 1)).sum())
            assert abs(predicted[now, 1] - one) < 1e-6


def test_sources_switch_and_draw_as_declared() -> None:
    task = make("switching:symbols=3,hazard=0.1,concentration=0.5,length=200")
    batch = task.batch(500, seed=2)
    since, same = batch.facts["since"], batch.inputs == batch.targets
    assert abs(float((since == 0).double().mean()) - 0.1) < 0.004
    late = since[:, 100:]  # by then a source may be that old
    for age in (1, 5, 20):
        assert abs(float((late == age).double().mean()) - 0.1 * 0.9**age) < 0.006
    assert (since[:, 0] <= 1).all() and (since[:, 1:] - since[:, :-1] <= 1).all()
    # two tokens of one source are the same with probability (a + 1) / (k a + 1), of two sources with 1 / k
    assert abs(float(same[since > 0].double().mean()) - 1.5 / 2.5) < 0.01
    assert abs(float(same[since == 0].double().mean()) - 1 / 3) < 0.02
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
    assert (torch.bincount(batch.inputs.flatten()) / batch.inputs.numel() - 1 / 3).abs().max() < 0.02


def test_the_codes_stand_in_their_order() -> None:
    """Who knows the hazard, who weights all partitions, who knows of no switches, who knows nothing."""
    task = make("switching:length=1024,hazard=0.01")
    batch = task.batch(24, seed=3)
    codes = [partition_tree_weighting(batch.inputs, 2), krichevsky_trofimov(batch.inputs, 2)]
    solved, tree, single = (float(task.score(outputs, batch).mean()) for outputs in (task.solve(batch.inputs), *codes))
    assert solved + 0.02 < tree < single - 0.05 and single < task.chance - 0.02


def test_ceilings_that_can_be_worked_out() -> None:
    assert abs(make("switching:hazard=1,length=8192").ceiling - 1) < 0.01  # a new source for each token
    assert abs(make("switching:symbols=4,hazard=1,length=16").ceiling - 2) < 0.02
    assert abs(make("switching:concentration=1000,length=16").ceiling - 1) < 0.002  # all symbols are equally likely
    # one uniform source: an entropy of 1 / (2 ln 2), and of n tokens Laplace's rule loses the code of their count
    task = make("switching:concentration=1,hazard=0.000001,length=64")
    counts = np.arange(66)
    choose = np.array([math.lgamma(66) - math.lgamma(c + 1) - math.lgamma(66 - c) for c in counts])
    code = math.log2(66) + float(choose.mean()) / math.log(2) - 1  # the first token's bit is not asked for
    assert abs(task.ceiling - code / 64) < 0.01


def definition(tokens: list[int], symbols: int, depth: int) -> float:
    """Partition tree weighting by its recursion, as a probability."""
    one = math.exp(marginal(tokens, symbols))
    half = 2 ** (depth - 1) if depth else 0
    if depth == 0 or not tokens:
        return one
    parts = definition(tokens[:half], symbols, depth - 1) * definition(tokens[half:], symbols, depth - 1)
    return (one + parts) / 2


@pytest.mark.parametrize(("symbols", "length"), [(2, 1), (2, 7), (2, 8), (3, 13)])
def test_partition_tree_weighting_is_its_recursion(symbols: int, length: int) -> None:
    tokens = torch.from_numpy(np.random.default_rng(length).integers(0, symbols, (3, length)))
    found = partition_tree_weighting(tokens, symbols).exp()
    depth = length.bit_length()
    for row, said in enumerate(tokens.tolist()):
        for place in range(length):
            past = said[: place + 1]
            here = definition(past, symbols, depth)
            expected = [definition([*past, s], symbols, depth) / here for s in range(symbols)]
            assert np.allclose(found[row, place].numpy(), expected, rtol=1e-10)


def bits(tokens: torch.Tensor, predicted: torch.Tensor) -> np.ndarray:
    """The length of the code of each row, whose first token costs one bit."""
    likely = predicted[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    return 1 - likely.sum(1).numpy() / math.log(2)


def test_the_code_is_no_longer_than_that_of_any_partition_and_its_tree() -> None:
    """arXiv 1211.0587, theorem 1, for all kinds of tokens and partitions; and the KT estimator's bound on top of it."""
    random = np.random.default_rng(0)
    length, depth = 63, 6
    closest = math.inf
    for rate, number in ((0.0, 3), (0.02, 1), (0.2, 2), (0.5, 0)):
        cuts = sorted(random.choice(np.arange(1, length), number, replace=False).tolist())
        parts = [0, *cuts, length]
        chances = np.repeat([rate, 1 - rate, rate, 0.5][: number + 1], np.diff(parts))
        tokens = torch.from_numpy((random.random((20, length)) < chances).astype(np.int64))
        found = bits(tokens, partition_tree_weighting(tokens, 2))

        def leaves(begin: int, level: int, cuts: list[int] = cuts) -> tuple[list[tuple[int, int]], int]:
            """The blocks of the least refinement of the partition, and the nodes of its tree above full depth."""
            end = begin + 2**level
            if not any(begin < cut < end for cut in cuts):
                return [(begin, end)], int(level > 0)
            (one, cost), (other, more) = leaves(begin, level - 1), leaves(begin + 2 ** (level - 1), level - 1)
            return one + other, 1 + cost + more

        blocks, cost = leaves(0, depth)
        assert cost <= 2 * number * depth + 1
        for row, said in enumerate(tokens.tolist()):
            inside = [said[a:b] for a, b in blocks if a < length]
            allowed = cost - sum(marginal(part, 2) for part in inside) / math.log(2)
            assert found[row] <= allowed + 1e-9
            closest = min(closest, allowed - found[row])
            best = 0.0
            for part in inside:
                share = sum(part) / len(part)
                best += sum(-n * math.log2(p) for n, p in ((sum(part), share), (len(part) - sum(part), 1 - share)) if n)
            assert found[row] <= cost + best + sum(math.log2(len(part)) / 2 + 1 for part in inside) + 1e-9
    assert closest < 1  # the bound is near


def test_the_estimator_counts() -> None:
    tokens = torch.tensor([[0, 1, 1, 2, 1]])
    found = krichevsky_trofimov(tokens, 3).exp()[0]
    expected = [[1.5, 0.5, 0.5], [1.5, 1.5, 0.5], [1.5, 2.5, 0.5], [1.5, 2.5, 1.5], [1.5, 3.5, 1.5]]
    assert np.allclose(found.numpy(), np.array(expected) / np.array([[2.5], [3.5], [4.5], [5.5], [6.5]]))
    for length in (1, 2, 5, 40):
        ones = torch.tensor([[int(i < n) for i in range(length)] for n in range(length + 1)])
        for n, code in enumerate(bits(ones, krichevsky_trofimov(ones, 2))):
            best = sum(-m * math.log2(m / length) for m in (n, length - n) if m)
            assert code <= best + math.log2(length) / 2 + 1 + 1e-9


def test_a_longer_sequence_is_of_the_same_sources() -> None:
    task = make("switching")
    long = task.at_length(2048)
    batch = long.batch(1, seed=0)
    assert long.solve(batch.inputs).shape == (1, 2048, 2)
    assert abs(float(long.score(long.solve(batch.inputs), batch).mean()) - task.ceiling) < 0.15


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hazard=0", r"hazard=\) is a probability in \(0, 1\]; got 0"),
        ("hazard=1.5", "got 1.5"),
        ("concentration=0", "must be positive and finite; got 0"),
        ("concentration=inf", "must be positive and finite; got inf"),
        ("symbols=1", r"SwitchingSources\(symbols=\) must be at least 2"),
    ],
)
def test_sources_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make("switching:" + line)


def test_tokens_that_are_no_symbols() -> None:
    for code in (krichevsky_trofimov, partition_tree_weighting):
        with pytest.raises(InvalidValue, match=r"lie in \[0, 2\)"):
            code(torch.tensor([[0, 2]]), 2)
        with pytest.raises(InvalidValue, match="at least 2 symbols"):
            code(torch.tensor([[0, 0]]), 1)
