"""Associative recall through relations: by the category of a key, for the category of a value, affirmed or denied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch, TokenTask
from mnemos.tasks.registry import task

BLANK, IS, NOT, MEMBER, CATEGORY, YES, NO = range(7)
WORDS = 7
"""Tokens that are no members and no categories."""

Tokens = TypeVar("Tokens", np.ndarray, Tensor)


@task(
    "generalized_recall",
    source="arXiv 2412.12841 (GAR), and the generator of its code",
    differences=(
        "tokens in place of English sentences",
        "which member is of which category is fixed, and learned in training; there it is knowledge of the world",
        "the examples of a sequence share one form of question, in which affirmed and denied ones, by member and by "
        "category, are mixed; there these are tasks of their own, and one example precedes the one that is asked",
        "the value always stands behind its key; there the order is also turned round",
    ),
)
@dataclass(frozen=True)
class GeneralizedRecall(TokenTask):
    """Pairs of things, each of a category, and one question: directly or through categories, affirmed or denied.

        a_1 b_1 a_2 b_2 a_3 b_3  is category A_2    the category of the value of the key that is of category A_2
        a_1 b_1 a_2 b_2 a_3 b_3  not member a_1     the value of the one key that is not a_1
        a_1 b_1 a_2 b_2 a_3 b_3  is b_2 a_2         "yes": the value of a_2 is b_2

    A sequence is as many such examples as fit, each drawn afresh, and then blanks (the token 0); asked at the last
    token of each example, the cue. Exactly one pair fits: if the question is affirmed, its key alone is the cue or of
    the cue's category; if it is denied, all other keys are, so that the odd key gives the pair away to who does not
    read the cue. Members and categories are drawn evenly. Where categories are the answers, no other value is of the
    answer's. Keys and values have members and categories of their own, and member j of category i is always number
    i * members + j of its side.

    pairs: in each example, 2 and more. categories: of keys, and as many of values, 2 and more. members: of each
    category, at least pairs - 1. answer: what is asked for, the "member" or its "category". by_category: the share of
    cues that are categories, the others being members. negative: the share of questions that are denied. truth: whether
    a candidate stands in the question, as often right as from another pair, and the answer is "yes" or "no". swapped:
    whether values are asked for their keys. The vocabulary depends on categories and members alone.
    facts: "relations", how many steps through categories it takes, 0 to 2; "negative", 1 if denied; "delay", tokens
    from the last token of the pair to the cue.
    """

    length: int = 126
    pairs: int = 3
    categories: int = 8
    members: int = 4
    answer: Literal["member", "category"] = "category"
    by_category: float = 0.5
    negative: float = 0.5
    truth: bool = False
    swapped: bool = False

    facts: ClassVar[tuple[str, ...]] = ("relations", "negative", "delay")

    def __post_init__(self) -> None:
        self.at_least(pairs=2, categories=2)
        expect(
            self.members >= self.pairs - 1,
            f"GeneralizedRecall(members=) must be at least pairs - 1 = {self.pairs - 1}, since all keys but one may be "
            f"of one category; got {self.members}.",
        )
        expect(
            self.length >= self._size,
            f"GeneralizedRecall(length=) must be at least 2 * pairs + 3 = {self._size}, one example; got "
            f"{self.length}.",
        )
        expect(
            self.answer in ("member", "category"),
            f'GeneralizedRecall(answer=) is "member" or "category"; got {self.answer!r}.',
        )
        for name, share in (("by_category", self.by_category), ("negative", self.negative)):
            expect(0 <= share <= 1, f"GeneralizedRecall({name}=) is a share in [0, 1]; got {share}.")

    @property
    def vocabulary(self) -> int:
        return WORDS + 2 * self.categories * (1 + self.members)

    @property
    def chance(self) -> float:
        if self.truth:
            return 0.5
        return 1 / self.categories if self.answer == "category" else 1 / (self.categories * self.members)

    @property
    def _size(self) -> int:
        """Tokens of an example."""
        return 2 * self.pairs + 3

    @property
    def _sides(self) -> tuple[int, int]:
        """The first token of the side that is asked by, and of the side that is asked for."""
        keys, values = WORDS, WORDS + self.categories * (1 + self.members)
        return (values, keys) if self.swapped else (keys, values)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        examples, pairs, all_members = self.length // self._size, self.pairs, self.categories * self.members
        number = rows * examples
        one = np.arange(number)
        by_category, denied = random.random(number) < self.by_category, random.random(number) < self.negative

        # Members by number. First the pair that fits, then the others.
        cue, right = (random.integers(0, all_members, number) for _ in range(2))
        cue_category = cue // self.members
        further = cue_category + random.integers(1, self.categories, number)
        elsewhere = further % self.categories * self.members + random.integers(0, self.members, number)
        fitting = np.where(denied, elsewhere, cue)
        member = np.arange(all_members)
        of_category = member // self.members == cue_category[:, None]
        # affirmed: not the cue, not of its category; denied: of its category (or else the cue itself, again and again)
        allowed = np.where(by_category[:, None], of_category == denied[:, None], member != cue[:, None])
        others = _some(random, allowed, pairs - 1)
        others = np.where((denied & ~by_category)[:, None], cue[:, None], others)
        asked_by = np.concatenate([fitting[:, None], others], 1)

        unlike = member // self.members != right[:, None] // self.members
        allowed = unlike if self.answer == "category" else member != right[:, None]
        asked_for = np.concatenate([right[:, None], _some(random, allowed, pairs - 1)], 1)

        order = np.argsort(random.random((number, pairs)), axis=1)
        by, of = self._sides
        asked_by, asked_for = (by + self.categories + asked_by)[one[:, None], order], (of + self.categories + asked_for)
        named = asked_for if self.answer == "member" else self._category(asked_for, of)
        yes = random.random(number) < 0.5
        candidate = np.where(yes, named[:, 0], named[one, random.integers(1, pairs, number)])
        asked_for = asked_for[one[:, None], order]

        parts = np.zeros((number, self._size), dtype=np.int64)
        parts[:, 0 : 2 * pairs : 2], parts[:, 1 : 2 * pairs : 2] = (
            (asked_for, asked_by) if self.swapped else (asked_by, asked_for)
        )
        parts[:, -3] = np.where(denied, NOT, IS)
        parts[:, -2] = candidate if self.truth else (MEMBER if self.answer == "member" else CATEGORY)
        parts[:, -1] = np.where(by_category, by + cue_category, by + self.categories + cue)
        answers = np.where(yes, YES, NO) if self.truth else named[:, 0]
        gap = self._size - 2 - 2 * order.argmin(1)  # where the first one went
        relations = by_category.astype(np.int64) + (self.answer == "category")

        shape, end = (rows, self.length), examples * self._size
        inputs = np.full(shape, BLANK, dtype=np.int64)
        inputs[:, :end] = parts.reshape(rows, end)
        asked = np.zeros(shape, dtype=bool)
        asked[:, self._size - 1 : end : self._size] = True
        targets, *facts = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        for to, what in zip((targets, *facts), (answers, relations, denied, gap), strict=True):
            to[asked] = what
        named_facts = {name: torch.from_numpy(fact) for name, fact in zip(type(self).facts, facts, strict=True)}
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(asked), named_facts)

    def solve(self, inputs: Tensor) -> Tensor:
        examples, pairs = self.length // self._size, self.pairs
        end = examples * self._size
        parts = inputs[:, :end].reshape(len(inputs), examples, self._size)
        asked_by, asked_for = parts[..., 0 : 2 * pairs : 2], parts[..., 1 : 2 * pairs : 2]
        by, of = self._sides
        if self.swapped:
            asked_by, asked_for = asked_for, asked_by
        word, wanted, cue = parts[..., -3], parts[..., -2], parts[..., -1, None]
        like = (asked_by == cue) | (self._category(asked_by, by) == cue)
        fits = like == (word == IS)[..., None]
        value = asked_for.gather(-1, fits.int().argmax(-1, keepdim=True))[..., 0]
        category = self._category(value, of)
        if self.truth:
            answer = torch.where((wanted == value) | (wanted == category), YES, NO)
        else:
            answer = torch.where(wanted == MEMBER, value, category)
        found = torch.full_like(inputs, UNKNOWN)
        found[:, self._size - 1 : end : self._size] = torch.where(fits.any(-1), answer, UNKNOWN)
        return self.answers(found)

    def _category(self, members: Tokens, side: int) -> Tokens:
        """The categories of these members of a side, as tokens."""
        return side + (members - side - self.categories) // self.members


def _some(random: np.random.Generator, allowed: np.ndarray, number: int) -> np.ndarray:
    """That many different ones of those allowed (rows, all), in any order: (rows, number)."""
    return np.argpartition(np.where(allowed, random.random(allowed.shape), 2.0), number - 1, axis=1)[:, :number]
