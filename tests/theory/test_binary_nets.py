"""Nets of binary links: Willshaw's, and the cliques of Gripon and Berrou, with the figures that are known of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import AnyMemory, Cliques, Patterns, Willshaw


def drawn(patterns: Patterns, count: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return patterns.draw(count, size, size, torch.Generator().manual_seed(seed))


def stored(memory: AnyMemory, k: Tensor, v: Tensor) -> mn.State:
    state = memory.init(1, 1, k.shape[1], v.shape[1], dtype=torch.float64)
    return memory.write_all(state, k[None, :, None], v[None, :, None])


def asked(memory: AnyMemory, state: mn.State, q: Tensor) -> Tensor:
    return memory.read(state, q[None, :, None])[0, :, 0]


def density(state: mn.State) -> float:
    return float(state["links"].double().mean())


SPARSE = Patterns("sparse", active=8)


def test_willshaw_is_the_clipped_sum_of_outer_products() -> None:
    k, v = drawn(Patterns("sparse", active=3), 30, 20)
    links = stored(Willshaw(), k, v)["links"][0, 0]
    assert torch.equal(links, (v.T @ k) > 0) and 0 < int(links.sum()) < 400


def test_nothing_stored_is_missed() -> None:
    """Whole keys, and halves of them, bring back all of the value, whatever else comes with it."""
    k, v = drawn(SPARSE, 700, 128)
    memory = Willshaw()
    state = stored(memory, k, v)
    cues = SPARSE.cues(k, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal(cues.sum(1), torch.full((700,), 4.0).double())
    for q in (k, cues):
        assert bool((asked(memory, state, q) >= v).all())


def test_density_and_false_positives_follow_the_formulas() -> None:
    """Links: 1 - (1 - 64/256^2)^P. Units that come with the right ones: (n - k) density^|cue|, where the density is
    that of a unit, which has r of the P values with chance binomial(P, k/n)."""
    k, v = drawn(SPARSE, 709, 256)
    memory = Willshaw()
    state = stored(memory, k, v)
    expected = 1 - (1 - 64 / 256**2) ** 709
    assert abs(expected - 0.5) < 0.001 and abs(density(state) - expected) < 0.005
    for erased in (0.0, 0.5):
        cues = SPARSE.cues(k, erased, torch.Generator().manual_seed(1))
        wrong = float((asked(memory, state, cues) - v).sum(1).mean())
        ones = round(8 * (1 - erased))
        of_units = sum(
            math.comb(709, r) * (8 / 256) ** r * (248 / 256) ** (709 - r) * (1 - (248 / 256) ** r) ** ones
            for r in range(120)
        )
        assert wrong == pytest.approx(248 * of_units, rel=0.12) and wrong > 248 * expected**ones


@pytest.mark.parametrize(("pairs", "erased", "share"), [(200, 0.0, 0.995), (500, 0.0, 0.77), (1000, 0.0, 0.0)])
def test_exact_recall_of_the_reference_sheet(pairs: int, erased: float, share: float) -> None:
    whole = []
    for seed in range(3):
        k, v = drawn(SPARSE, pairs, 256, seed)
        memory = Willshaw()
        found = asked(memory, stored(memory, k, v), SPARSE.cues(k, erased, torch.Generator().manual_seed(seed)))
        whole.append(float((found == v).all(1).double().mean()))
    assert abs(sum(whole) / 3 - share) < 0.05


def test_halves_of_keys_of_the_reference_sheet() -> None:
    for pairs, share in ((100, 0.90), (355, 0.09)):
        whole = []
        for seed in range(3):
            k, v = drawn(SPARSE, pairs, 256, seed)
            found = asked(Willshaw(), stored(Willshaw(), k, v), SPARSE.cues(k, 0.5, torch.Generator().manual_seed(9)))
            whole.append(float((found == v).all(1).double().mean()))
        assert abs(sum(whole) / 3 - share) < 0.08


@pytest.mark.parametrize("memory", [Willshaw(), Cliques(4)], ids=str)
def test_order_and_repetition_mean_nothing(memory: AnyMemory) -> None:
    k, v = drawn(memory.patterns, 20, 32)
    state = stored(memory, k, v)
    assert torch.equal(stored(memory, k.flip(0), v.flip(0))["links"], state["links"])
    again = memory.write(state, k[None, 3, None], v[None, 3, None])
    assert torch.equal(again["links"], state["links"])


def test_winners_are_the_best_so_many() -> None:
    k, v = drawn(SPARSE, 60, 128)
    state = stored(Willshaw(winners=8), k, v)
    cues = SPARSE.cues(k, 0.25, torch.Generator().manual_seed(1))
    cues[:, :2] = 1  # and units that do not belong to the key, for which a threshold of |cue| is too much
    links, found = state["links"][0, 0].double(), asked(Willshaw(winners=8), state, cues)
    for row, answer in zip(cues, found, strict=True):
        score = links @ row
        assert torch.equal(answer, ((score >= score.sort(descending=True).values[7]) & (score > 0)).double())
    strict = Willshaw()
    lost = asked(strict, stored(strict, k, v), cues)
    assert float((found >= v).all(1).double().mean()) > 0.9 > float((lost >= v).all(1).double().mean())


def test_an_empty_cue_and_an_empty_net_answer_zero() -> None:
    for memory in (Willshaw(), Willshaw(2), Cliques(4)):
        k, v = drawn(memory.patterns, 5, 16)
        empty = memory.init(1, 1, 16, 16, dtype=torch.float64)
        assert not asked(memory, stored(memory, k, v), torch.zeros(3, 16).double()).any()
        if isinstance(memory, Willshaw):
            assert not asked(memory, empty, k).any()
        else:  # a unit of a clique stays by itself
            assert torch.equal(asked(memory, empty, k), k)
            forgetful = memory.replace(stay=0.0)
            assert not asked(forgetful, forgetful.init(1, 1, 16, 16), k.float()).any()


def cliques(messages: int, clusters: int = 8, units: int = 16) -> tuple[Cliques, Tensor, mn.State]:
    memory = Cliques(clusters)
    k, _ = drawn(memory.patterns, messages, clusters * units)
    return memory, k, stored(memory, k, k)


def test_a_message_is_a_clique() -> None:
    _, k, state = cliques(1)
    links = state["links"][0, 0]
    assert torch.equal(links, links.T) and int(links.sum()) == 8 * 7
    units = k[0].nonzero().flatten()
    assert bool((links[units][:, units] | torch.eye(8, dtype=torch.bool)).all())


def test_stored_messages_are_fixed_points() -> None:
    """All of a message's units have the full score; with few messages no other unit has."""
    memory, k, state = cliques(60)
    assert bool((asked(memory, state, k) >= k).all())
    assert torch.equal(asked(memory, state, k), k)


def test_density_of_cliques() -> None:
    _, _, state = cliques(200)
    between = 1 - 1 / 8  # the share of pairs of units that lie in different clusters
    assert abs(density(state) / between - (1 - (1 - 1 / 16**2) ** 200)) < 0.01


@pytest.mark.parametrize(("messages", "share"), [(500, 1.0), (2000, 0.57), (4000, 0.0)])
def test_erasures_of_the_reference_sheet(messages: int, share: float) -> None:
    """8 clusters of 64, half of them erased, 4 steps."""
    memory, k, state = cliques(messages, 8, 64)
    cues = memory.patterns.cues(k[:150], 0.5, torch.Generator().manual_seed(1))
    assert cues.sum(1).eq(4).all()
    found = (asked(memory, state, cues) == k[:150]).all(1).double().mean()
    assert abs(float(found) - share) < 0.12


def test_steps_are_repeated_and_scores_are_the_sum_of_the_best() -> None:
    memory, k, state = cliques(60, 4, 8)
    cues = memory.patterns.cues(k, 0.5, torch.Generator().manual_seed(1))
    active = cues
    for steps in (1, 2, 3):
        score = torch.zeros(60, 4, 8, dtype=torch.float64)
        for n in range(60):
            linked = state["links"][0, 0].double() * active[n]
            score[n] = (linked.view(32, 4, 8).amax(-1).sum(-1) + active[n]).view(4, 8)
        active = ((score == score.amax(-1, keepdim=True)) & (score > 0)).double().flatten(1)
        stepping = memory.replace(steps=steps)
        assert torch.equal(asked(stepping, stored(stepping, k, k), cues), active)


def test_capacity_measures_them() -> None:
    options = {"seeds": 2, "progress": False, "threshold": 0.1}
    found = mn.capacity({"net": Willshaw()}, key_dim=(32, 64), counts=(10, 40, 160, 640), **options)
    small, large = (curve.capacity.mean for curve in found["net"])
    assert 10 < small < large < 640
    (messages,) = mn.capacity(Cliques(4), key_dim=32, counts=(5, 200), noise=0.5, **options).curves
    assert not messages.open and messages.capacity.mean > 5


def test_what_cannot_be() -> None:
    for make, message in (
        (lambda: Willshaw(0), r"Willshaw\(winners=\) is at least 1, or None for the cue's own threshold; got 0"),
        (lambda: Willshaw(9).init(1, 1, 16, 8), "9 winners need as many value channels; got value_dim=8"),
        (lambda: Cliques(1), r"Cliques\(clusters=\) is at least 2; got 1"),
        (lambda: Cliques(steps=0), r"Cliques\(steps=\) is at least 1; got 0"),
        (lambda: Cliques(stay=-1.0), r"Cliques\(stay=\) is at least 0; got -1"),
        (lambda: Cliques(4).init(1, 1, 6, 6), "needs key_dim = value_dim, a multiple of the clusters; got 6 and 6"),
        (lambda: Cliques(2).init(1, 1, 6, 4), "needs key_dim = value_dim, a multiple of the clusters; got 6 and 4"),
        (lambda: Willshaw().init(1, 1, 2, 2, weights={"links": torch.ones(1)}), "takes no weights"),
    ):
        with pytest.raises(InvalidValue, match=message):
            make()
