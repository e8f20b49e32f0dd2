from __future__ import annotations

import torch

from mnemos.tasks import WORDS, make
from mnemos.tasks.stories import PEOPLE, PLACES, THINGS


def visits(lines: list[list[str]]) -> dict[str, list[str]]:
    """Where each was, one after another, by where all are after each line."""
    here: dict[str, str | None] = dict.fromkeys((*PEOPLE, *THINGS))
    held: dict[str, str] = {}
    found: dict[str, list[str]] = {name: [] for name in here}
    for person, deed, what in lines:
        if deed == "went":
            here[person] = what
        elif deed == "took":
            held[what] = person
        else:
            assert held.pop(what) == person
        for thing, holder in held.items():
            here[thing] = here[holder]
        for name, place in here.items():
            if place and found[name][-1:] != [place]:
                found[name].append(place)
    return found


def test_questions_are_answered_by_the_story() -> None:
    task = make("scattered_facts:length=200,sentences=9")
    batch = task.batch(600, seed=0)
    assert batch.asked[:, -1].all() and batch.asked.sum() == 600
    kinds = []
    for tokens, target, hops in zip(batch.inputs, batch.targets[:, -1], batch.facts["hops"][:, -1], strict=True):
        words = [WORDS[token - 256] for token in tokens.tolist() if token >= 256]
        lines, asked = [words[i : i + 3] for i in range(0, 27, 3)], words[27:]
        assert len(asked) == 4
        been = visits(lines)
        if asked[1] == "was":
            thing, _, before, place = asked
            assert before == "before" and been[thing][-1] == place
            kinds.append(3)
            answer = been[thing][-2]
        else:
            assert asked[:3] == ["", "where", "is"]
            kinds.append(2 if asked[3] in THINGS else 1)
            answer = been[asked[3]][-1]
        assert WORDS[int(target) - 256] == answer and int(hops) == kinds[-1]
    assert all(abs(kinds.count(hops) / 600 - 1 / 3) < 0.08 for hops in (1, 2, 3))


def test_the_answer_was_told_so_long_ago() -> None:
    batch = make("scattered_facts:length=120").batch(300, seed=1)
    row = torch.arange(300)
    place = 119 - batch.facts["delay"][:, -1]
    assert torch.equal(batch.inputs[row, place], batch.targets[:, -1])
    assert all(WORDS[int(token) - 256] == "went" for token in batch.inputs[row, place - 1])
    simple = make("scattered_facts:length=120,hops=1").batch(300, seed=1)
    last = 119 - simple.facts["delay"][:, -1]
    for tokens, at in zip(simple.inputs, last, strict=True):
        assert tokens[-1] == tokens[at - 2] and (tokens[at + 1 : -1] != tokens[-1]).all()  # the person's last deed


def test_all_places_are_answers_equally_often() -> None:
    batch = make("scattered_facts:length=40").batch(3000, seed=2)
    for hops in (1, 2, 3):
        answers = batch.targets[:, -1][batch.facts["hops"][:, -1] == hops]
        shares = torch.stack([(answers == 256 + WORDS.index(place)).double().mean() for place in PLACES])
        assert abs(float(shares.sum()) - 1) < 1e-9 and float((shares - 1 / 6).abs().max()) < 0.05


def test_the_order_of_the_sentences_matters() -> None:
    """Told backwards, the same sentences lead to other places."""
    task = make("scattered_facts:hops=1,length=28")  # no text between them
    batch = task.batch(500, seed=3)
    told = batch.inputs[:, :24].view(500, 8, 3).flip(1).flatten(1)
    score = task.score(task.solve(torch.cat([told, batch.inputs[:, 24:]], 1)), batch)
    assert float(task.score(task.solve(batch.inputs), batch).min()) == 1 and float(score.mean()) < 0.6
