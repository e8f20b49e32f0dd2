"""Sentences hidden in real text and asked for at its end."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.tasks.base import UNKNOWN, Batch
from mnemos.tasks.text import text_bytes

END = b". "


def scatter(
    pieces: np.ndarray, text: np.ndarray, length: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `length` tokens, an excerpt of the text with the pieces (rows, n, width) cut into it in their order.

    The excerpt begins anywhere in the text, which goes round where it is too short; the pieces stand at places drawn
    evenly, wherever that is in a word. Gives the tokens (rows, length) and where each piece begins (rows, n).
    """
    rows, number, width = pieces.shape
    filler = length - number * width
    excerpt = text.take(random.integers(0, len(text), (rows, 1)) + np.arange(filler), mode="wrap")
    starts = np.sort(random.integers(0, filler + 1, (rows, number)), axis=1) + width * np.arange(number)
    row, at = np.arange(rows)[:, None, None], starts[..., None] + np.arange(width)
    free = np.ones((rows, length), dtype=bool)
    free[row, at] = False
    tokens = np.empty((rows, length), dtype=np.int64)
    tokens[free], tokens[row, at] = excerpt.ravel(), pieces
    return tokens, starts


def room(opening: int, digits: int, questions: int) -> int:
    """Tokens that so many questions take at the end of a sequence, for sentences whose digits come after `opening`
    bytes."""
    return questions * (opening + digits + len(END)) - len(END) - 1


def hide(
    sentences: np.ndarray, asked: np.ndarray, digits: int, text: np.ndarray, length: int, random: np.random.Generator
) -> Batch:
    """Sentences (rows, n, width) scattered in the text; those of the places `asked` (rows, questions) stand once more
    at the end, where each of their digits is a question. They end in so many digits and END."""
    rows, _, width = sentences.shape
    questions = asked.shape[1]
    within = np.arange(width - len(END) - digits, width - len(END))
    context = length - room(int(within[0]), digits, questions)
    tokens, starts = scatter(sentences, text, context, random)
    again = np.take_along_axis(sentences, asked[..., None], 1)
    inputs = np.concatenate([tokens, again.reshape(rows, -1)[:, : length - context]], axis=1)

    start = np.take_along_axis(starts, asked, 1)[..., None]
    at = context + width * np.arange(questions)[:, None] + within - 1
    targets, depth, delay = (np.zeros((rows, length), dtype=np.int64) for _ in range(3))
    here = np.zeros((rows, length), dtype=bool)
    targets[:, at], here[:, at] = again[..., within], True
    depth[:, at], delay[:, at] = 100 * start // context, at - (start + within)
    facts = {"depth": torch.from_numpy(depth), "delay": torch.from_numpy(delay)}
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(here), facts)


def recite(inputs: Tensor, opening: int, digits: int, questions: int) -> Tensor:
    """The digits asked for by `hide` at their places (B, T), UNKNOWN elsewhere: what follows the opening bytes of each
    question where they first stand in the text."""
    length = inputs.shape[1]
    context = length - room(opening, digits, questions)
    width = opening + digits + len(END)
    answers = torch.full_like(inputs, UNKNOWN)
    for row, tokens in enumerate(inputs.numpy().astype(np.uint8)):
        said = tokens[:context].tobytes()
        for begin in range(context, length, width):
            found = said.find(tokens[begin : begin + opening].tobytes())
            if found >= 0:
                digit = torch.tensor(list(said[found + opening : found + opening + digits]))
                answers[row, begin + opening - 1 :][: len(digit)] = digit
    return answers


@lru_cache(maxsize=8)
def text_without(source: str, phrase: str) -> np.ndarray:
    """The bytes of a source of text. Raises InvalidValue where the phrase is in it, and DataError where it is none."""
    text = text_bytes(source)
    said = text.tobytes()
    expect(
        phrase.encode() not in said + said[: len(phrase)],
        f"the text {source} says {phrase!r} itself, so nothing can be hidden behind these words; give another text.",
    )
    return text
