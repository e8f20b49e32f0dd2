"""Generated tasks: their answers follow from what they show."""

from __future__ import annotations

import itertools

import pytest
import torch

import mnemos as mn
from mnemos.tasks import WORDS, convex_hulls, paired_associates, score_hulls, stories


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_stories_are_answered_by_following_them(facts: int) -> None:
    made = stories(200, facts=facts, sentences=12, seed=3)  # pyright: ignore[reportArgumentType]
    for story, question, answer in zip(*(x.tolist() for x in made), strict=True):
        where: dict[str, str] = {}
        carried: dict[str, str] = {}
        trail: dict[str, list[str]] = {}
        for line in story:
            person, deed, what = (WORDS[word] for word in line)
            if deed == "went":
                assert where.get(person) != what
                where[person] = what
                for thing in (t for t, by in carried.items() if by == person):
                    trail[thing].append(what)
            elif deed == "took":
                assert what not in carried and trail.get(what, [where[person]])[-1] == where[person]
                carried[what] = person
                trail.setdefault(what, [where[person]])
            else:
                assert deed == "dropped" and carried.pop(what) == person
        words = [WORDS[word] for word in question if word]
        if facts == 3:
            thing, was, before, place = words
            assert (was, before) == ("was", "before") and trail[thing][-1] == place
            assert WORDS[answer] == trail[thing][-2]
        elif facts == 2:
            assert words[:2] == ["where", "is"] and WORDS[answer] == trail[words[2]][-1]
        else:
            assert words[:2] == ["where", "is"] and WORDS[answer] == where[words[2]]
    again, other = (stories(20, facts=facts, seed=s) for s in (3, 4))  # pyright: ignore[reportArgumentType]
    assert torch.equal(again.story, stories(20, facts=facts, seed=3).story)  # pyright: ignore[reportArgumentType]
    assert not torch.equal(again.story, other.story)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_associations_are_found_by_walking_along_the_facts(length: int) -> None:
    bank = torch.randn(30, 6)
    made = paired_associates(100, bank, length=length, sequences=4)
    assert made.facts.shape == (100, 4 * (length - 1), 2, 6)
    for facts, question, target, label, distance in zip(*made, strict=True):
        assert torch.equal(bank[label], question[1 + target])
        reached = [question[0]]
        for step in range(length):
            for candidate in question[1:]:
                if any(torch.equal(candidate, item) for item in reached):
                    assert step == int(distance) and torch.equal(candidate, question[1 + int(target)])
                    break
            else:
                neighbours = [pair[1 - i] for pair in facts for i in (0, 1) for r in reached if torch.equal(pair[i], r)]
                reached += neighbours
                continue
            break
        else:
            raise AssertionError("the match cannot be reached")
    direct = float((made.distance == 1).double().mean())
    assert direct == 1 if length == 2 else 0.3 < direct < 0.7
    assert 0.3 < float(made.target.double().mean()) < 0.7


def test_hulls_hold_all_points() -> None:
    """No point lies to the right of a side, and every corner is one."""
    hulls = convex_hulls(30, points=9)
    for points, targets in zip(hulls.points, hulls.targets.tolist(), strict=True):
        corners = targets[: targets.index(9)]
        assert set(targets[len(corners) + 1 :]) <= {-1} and corners[0] == min(corners) and len(corners) >= 3
        for a, b in itertools.pairwise([*corners, corners[0]]):
            side, away = points[b] - points[a], points - points[a]
            turns = side[0] * away[:, 1] - side[1] * away[:, 0]
            others = [i for i in range(9) if i not in (a, b)]
            assert bool((turns[others] > 0).all())


def test_scores_of_hulls() -> None:
    hulls = convex_hulls(12, points=7)
    perfect = score_hulls(hulls.targets, hulls)
    assert perfect.accuracy == 1 and perfect.simple == 1 and abs(perfect.coverage - 1) < 1e-12
    turned = hulls.targets.clone()
    for row in turned:
        corners = int((row == 7).nonzero()[0])
        row[:corners] = row[:corners].roll(1)
    assert score_hulls(turned, hulls).accuracy == 1  # whichever corner comes first
    square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    hull = type(hulls)(square, torch.tensor([[0, 1, 2, 3, 5, -1]]))
    for answer, expected in (
        ([0, 1, 2, 3, 5], (1.0, 1.0, 1.0)),
        ([0, 1, 2, 5, 5], (0.0, 0.5, 1.0)),
        ([0, 1, 4, 5, -1], (0.0, 0.25, 1.0)),
        ([3, 2, 1, 0, 5], (0.0, 1.0, 1.0)),  # the wrong way round
        ([0, 2, 1, 3, 5], (0.0, 0.0, 0.0)),  # crosses itself
        ([0, 1, 5, 5, 5], (0.0, 0.0, 0.0)),
        ([0, 1, 0, 2, 5], (0.0, 0.0, 0.0)),
    ):
        assert score_hulls(torch.tensor([answer]), hull) == expected


def test_tasks_that_cannot_be() -> None:
    hulls = convex_hulls(2, points=4)
    for make, message in (
        (lambda: stories(1, facts=4), "1, 2 or 3"),  # pyright: ignore[reportArgumentType]
        (lambda: stories(0), "number"),
        (lambda: stories(1, facts=3, sentences=2), "at least 4"),
        (lambda: paired_associates(1, torch.zeros(9, 2), length=1), "length"),
        (lambda: paired_associates(1, torch.zeros(9, 2), sequences=1), "sequences"),
        (lambda: paired_associates(1, torch.zeros(8, 2), sequences=3), "at least sequences"),
        (lambda: convex_hulls(1, points=2), "at least 3"),
        (lambda: score_hulls(torch.zeros(1, 2, dtype=torch.int64), hulls), "answers must be"),
        (lambda: score_hulls(torch.full((2, 2), 5), hulls), "places in"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            make()
