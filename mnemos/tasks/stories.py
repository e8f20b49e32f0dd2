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
        lines, at, trail = _happening(chance, sentences, things=facts > 1)
        if facts == 1:
            person = chance.choice(sorted(at))
            question, answer = ["where", "is", person], at[person]
        else:
            known = [thing for thing in THINGS if len(trail[thing]) >= facts - 1]
            if not known:
                continue
            thing = chance.choice(known)
            question, answer = ["where", "is", thing], trail[thing][-1]
            if facts == 3:
                question, answer = [thing, "was", "before", trail[thing][-1]], trail[thing][-2]
        told.append([_numbers(line, 3) for line in lines])
        asked.append(_numbers(question, 4))
        answers.append(NUMBER[answer])
    return Stories(torch.tensor(told), torch.tensor(asked), torch.tensor(answers))


def _happening(
    chance: random.Random, sentences: int, things: bool
) -> tuple[list[list[str]], dict[str, str], dict[str, list[str]]]:
    """Lines of words, where each person is in the end, and the places where each thing has been, in their order."""
    lines: list[list[str]] = []
    at: dict[str, str] = {}
    holder: dict[str, str] = {}
    trail: dict[str, list[str]] = {thing: [] for thing in THINGS}

    def was_at(thing: str, place: str) -> None:
        if trail[thing][-1:] != [place]:
            trail[thing].append(place)

    while len(lines) < sentences:
        person = chance.choice(PEOPLE)
        held = [thing for thing in THINGS if holder.get(thing) == person]
        here = [t for t in THINGS if t not in holder and person in at and trail[t][-1:] in ([], [at[person]])]
        deed = chance.choice(["went", "went", "took", "dropped"]) if things else "went"
        if deed == "took" and here:
            thing = chance.choice(here)
            holder[thing] = person
            was_at(thing, at[person])
            lines.append([person, deed, thing])
        elif deed == "dropped" and held:
            thing = chance.choice(held)
            del holder[thing]
            lines.append([person, deed, thing])
        elif deed == "went":
            place = chance.choice([p for p in PLACES if p != at.get(person)])
            at[person] = place
            for thing in held:
                was_at(thing, place)
            lines.append([person, deed, place])
    return lines, at, trail


def _numbers(words: list[str], length: int) -> list[int]:
    return [NUMBER[word] for word in words] + [0] * (length - len(words))
