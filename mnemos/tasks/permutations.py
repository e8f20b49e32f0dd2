"""Composing the elements of a finite group: the word problem."""

from __future__ import annotations

import functools
import itertools
import math
import re
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import Batch, TokenTask
from mnemos.tasks.registry import task

LARGEST = 720


@task(
    "permutations",
    source="arXiv 2404.08819, and the generator of its code",
    differences=(
        "every row is drawn by itself; there a data set holds no sequence twice",
        "generators are ours; there tokens are always all elements",
    ),
)
@dataclass(frozen=True)
class Permutations(TokenTask):
    """Permutations, one after another: which one are they together?

        g_1 g_2 ... g_T        asked at every token; the answer is g_1, then g_2, ..., then g_t, as one element

    Each element of the group is one token, 0 the identity; tokens are drawn evenly. For S5 and A5, which are not
    solvable, the task is complete for NC1; for S3, A4 and the cyclic groups it is in TC0.
    group: "S3" all permutations of 3 things, "A5" the even ones of 5, "Z60" the rotations of 60, "A4xZ5" pairs of
    elements, at most 720 elements in all.
    tokens: "elements", any of the group, or "generators": the identity and one or two that make the whole group, for
    Sn a swap and a cycle of all things, for An a cycle of three and one of all things (of all but the first when n is
    even), for Zn a rotation by one place, and for pairs those of either part.
    facts: "steps", the number of tokens so far.
    """

    length: int = 64
    group: str = "S3"
    tokens: Literal["elements", "generators"] = "elements"

    facts: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        self.at_least(length=2)
        expect(
            isinstance(self.group, str) and _order(self.group) is not None,
            f"Permutations(group=) is Sn (n of 2 or more), An (n of 3 or more) or Zn (n of 2 or more), or several with "
            f"x between, such as S5 or A4xZ5; got {self.group!r}.",
        )
        expect(
            (_order(self.group) or 0) <= LARGEST,
            f"Permutations(group=) has at most {LARGEST} elements, each a token; {self.group} has "
            f"{_order(self.group)}.",
        )
        expect(
            self.tokens in ("elements", "generators"),
            f'Permutations(tokens=) is "elements" or "generators"; got {self.tokens!r}.',
        )

    @property
    def vocabulary(self) -> int:
        return len(products(self.group))

    @property
    def chance(self) -> float:
        if self.tokens == "elements":
            return 1 / self.vocabulary
        return _likeliest(self.group, self.length)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        drawn = np.arange(self.vocabulary) if self.tokens == "elements" else generators(self.group)
        inputs = drawn[random.integers(0, len(drawn), (rows, self.length))]
        steps = torch.arange(1, self.length + 1).expand(inputs.shape).clone()
        asked = torch.ones(inputs.shape, dtype=torch.bool)
        return Batch(torch.from_numpy(inputs), torch.from_numpy(self._together(inputs)), asked, {"steps": steps})

    def solve(self, inputs: Tensor) -> Tensor:
        return self.answers(torch.from_numpy(self._together(inputs.numpy())))

    def _together(self, tokens: np.ndarray) -> np.ndarray:
        table, found = products(self.group), np.empty_like(tokens)
        state = np.zeros(len(tokens), dtype=np.int64)
        for t in range(tokens.shape[1]):
            state = found[:, t] = table[state, tokens[:, t]]
        return found


def _parts(group: str) -> list[tuple[str, int]]:
    return [(part[0], int(part[1:])) for part in group.split("x")]


def _order(group: str) -> int | None:
    """How many elements the group has; None where it is none."""
    if not re.fullmatch(r"[SAZ]\d{1,4}(x[SAZ]\d{1,4})*", group):
        return None
    order = 1
    for kind, n in _parts(group):
        if n < (3 if kind == "A" else 2):
            return None
        most = min(n, 12)  # beyond any bound, and soon computed
        order *= n if kind == "Z" else math.factorial(most) // (2 if kind == "A" else 1)
    return order


def _elements(kind: str, n: int) -> list[tuple[int, ...]]:
    """All permutations, or the even ones, of n things, the identity first."""
    every = itertools.permutations(range(n))
    return [p for p in every if kind == "S" or sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0]


def _own(kind: str, n: int) -> np.ndarray:
    """The multiplication table of one part of a group."""
    if kind == "Z":
        return (np.arange(n)[:, None] + np.arange(n)) % n
    elements = np.array(_elements(kind, n))
    both = elements[np.arange(len(elements))[None, :, None], elements[:, None]]
    digits = n ** np.arange(n)
    places = {key: place for place, key in enumerate((elements * digits).sum(-1).tolist())}
    return np.array([[places[key] for key in row] for row in (both * digits).sum(-1).tolist()])


@functools.lru_cache(maxsize=16)
def products(group: str) -> np.ndarray:
    """The multiplication table: `[a, b]` is first a, then b."""
    table = np.zeros((1, 1), dtype=np.int64)
    for kind, n in _parts(group):
        own = _own(kind, n)
        table = table[:, None, :, None] * len(own) + own[None, :, None, :]
        table = table.reshape((table.shape[0] * len(own),) * 2)
    return table


@functools.lru_cache(maxsize=16)
def generators(group: str) -> np.ndarray:
    """The identity and the elements that make the whole group, in increasing order."""
    found, parts = {0}, _parts(group)
    for place, (kind, n) in enumerate(parts):
        after = math.prod(_order(f"{k}{m}") or 1 for k, m in parts[place + 1 :])
        cycle = [*range(1, n), 0]
        if kind == "Z":
            own = [1]
        elif kind == "S":
            own = [_elements(kind, n).index(tuple(move)) for move in (cycle, [1, 0, *range(2, n)])]
        else:
            moves = [1, 2, 0, *range(3, n)], cycle if n % 2 else [0, *range(2, n), 1]
            own = [_elements(kind, n).index(tuple(move)) for move in moves]
        found |= {element * after for element in own}
    return np.array(sorted(found))


@functools.lru_cache(maxsize=64)
def _likeliest(group: str, length: int) -> float:
    """How often the likeliest element at each place is right, where generators are drawn."""
    table, moves, total = products(group), generators(group), 0.0
    likely = np.zeros(len(table))
    likely[0] = 1
    for _ in range(length):
        after = np.zeros_like(likely)
        for move in moves:
            after[table[:, move]] += likely / len(moves)
        likely = after
        total += likely.max()
    return total / length
