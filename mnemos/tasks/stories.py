"""Stories of people who move about and carry things, and questions about where things are."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mnemos.errors import expect

PEOPLE = ("mary", "john", "sandra", "daniel")
PLACES = ("kitchen", "garden", "office", "hallway", "bathroom", "bedroom")
THINGS = ("football", "apple", "milk")
WORDS = ("", *PEOPLE, *PLACES, *THINGS, "went", "took", "dropped", "where", "is", "was", "before")
"""Every word by its number; 0 is the nil word."""

NUMBER = {word: number for number, word in enumerate(WORDS)}


class Stories(NamedTuple):
    """story (B, sentences, 3), question (B, 4) and answer (B,) as numbers of WORDS, filled up with nil."""

    story: Tensor
    question: Tensor
    answer: Tensor


def stories(number: int, *, facts: Literal[1, 2, 3] = 1, sentences: int = 10, seed: int = 0) -> Stories:
    """Stories whose questions take so many facts to answer, after the first three bAbI tasks (arXiv 1502.05698).

    1: where a person is, the last place that they went to. 2: where a thing is, which was carried or dropped. 3: where
    a thing was before the place where it is. Raises InvalidValue for sizes that cannot be.
    """
    expect(facts in (1, 2, 3), f"stories(facts=) is 1, 2 or 3; got {facts!r}.")
    expect(number >= 1, f"stories(number=) must be at least 1; got {number!r}.")
    least = {1: 1, 2: 2, 3: 4}[facts]
    expect(sentences >= least, f"stories(facts={facts}) need at least {least} sentences; got {sentences!r}.")
    chance = random.Random(seed)
    told: list[list[list[int]]] = []
    asked: list[list[int]] = []
    answers: list[int] = []
    while len(told) < number:
        lines, trails = happening(chance, sentences, things=facts > 1)
        found = question(chance, facts, trails)
        if found is None:
            continue
        told.append([_numbers(line, 3) for line in lines])
        asked.append(_numbers(found.words, 4))
        answers.append(NUMBER[found.answer])
    return Stories(torch.tensor(told), torch.tensor(asked), torch.tensor(answers))


Trails = dict[str, list[tuple[str, int]]]
"""Where each person and each thing has been: the places in their order, each with the line that tells of it."""


class Question(NamedTuple):
    """words, the word that answers them, and the line that tells it."""

    words: list[str]
    answer: str
    line: int


def question(chance: random.Random, facts: int, trails: Trails) -> Question | None:
    """A question that takes so many facts, 1 to 3, about what happened; None where nothing that did gives one."""
    names = sorted(PEOPLE) if facts == 1 else THINGS
    known = [name for name in names if len(trails[name]) >= max(1, facts - 1)]
    if not known:
        return None
    name = chance.choice(known)
    if facts < 3:
        return Question(["where", "is", name], *trails[name][-1])
    return Question([name, "was", "before", trails[name][-1][0]], *trails[name][-2])


def happening(chance: random.Random, sentences: int, things: bool) -> tuple[list[list[str]], Trails]:
    """So many lines of three words about people, and about things if wanted, and where all have been."""
    lines: list[list[str]] = []
    holder: dict[str, str] = {}
    trails: Trails = {name: [] for name in (*PEOPLE, *THINGS)}

    def place(name: str) -> str | None:
        return trails[name][-1][0] if trails[name] else None

    def comes_along(thing: str, person: str) -> None:
        if place(thing) != place(person):
            trails[thing].append(trails[person][-1])

    while len(lines) < sentences:
        person = chance.choice(PEOPLE)
        held = [thing for thing in THINGS if holder.get(thing) == person]
        here = [t for t in THINGS if t not in holder and place(person) and place(t) in (None, place(person))]
        deed = chance.choice(["went", "went", "took", "dropped"]) if things else "went"
        if deed == "took" and here:
            thing = chance.choice(here)
            holder[thing] = person
            comes_along(thing, person)
            lines.append([person, deed, thing])
        elif deed == "dropped" and held:
            thing = chance.choice(held)
            del holder[thing]
            lines.append([person, deed, thing])
        elif deed == "went":
            target = chance.choice([p for p in PLACES if p != place(person)])
            trails[person].append((target, len(lines)))
            for thing in held:
                comes_along(thing, person)
            lines.append([person, deed, target])
    return lines, trails


def _numbers(words: list[str], length: int) -> list[int]:
    return [NUMBER[word] for word in words] + [0] * (length - len(words))
