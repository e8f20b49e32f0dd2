"""Keys and numbers hidden in text: what is drawn, and that only those who find it can say it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mnemos.errors import DataError, InvalidValue
from mnemos.tasks import Batch, make

KEY = re.compile(r"The pass key is (\d+)\. ")
NUMBER = re.compile(r"The magic number of ([a-z]+) is (\d+)\. ")


def said(tokens: torch.Tensor) -> str:
    return bytes(tokens.tolist()).decode("latin-1")


def check_questions(batch: Batch) -> None:
    """An answer is said `delay` tokens before its question, and once more after it where another question follows."""
    row, at = batch.asked.nonzero(as_tuple=True)
    answers = batch.targets[row, at]
    assert torch.equal(batch.inputs[row, at - batch.facts["delay"][row, at]], answers)
    inside = at + 1 < batch.inputs.shape[1]
    assert torch.equal(batch.inputs[row[inside], at[inside] + 1], answers[inside])


def test_a_pass_key_is_said_once_and_asked_for_at_the_end() -> None:
    batch = make("passkey").batch(300, seed=0)
    check_questions(batch)
    for tokens, targets, asked, depth in zip(
        batch.inputs, batch.targets, batch.asked, batch.facts["depth"], strict=True
    ):
        (found,) = KEY.finditer(said(tokens))
        assert said(targets[asked]) == found[1] and len(found[1]) == 5
        assert asked.nonzero()[:, 0].tolist() == list(range(251, 256))
        assert said(tokens).endswith("The pass key is " + found[1][:-1])
        assert (depth[asked] == 100 * found.start() // 236).all()


def test_depths_and_digits_are_drawn_evenly() -> None:
    batch = make("passkey:length=1043").batch(6000, seed=1)
    first = batch.inputs.shape[1] - 5
    start = first - batch.facts["delay"][:, first] - 16  # of 1001 places
    tenths = torch.bincount(start * 10 // 1001, minlength=10) / 6000
    digits = torch.bincount(batch.targets[batch.asked] - ord("0"), minlength=10) / 30000
    assert float((tenths - 0.1).abs().max()) < 0.016 and float((digits - 0.1).abs().max()) < 0.007
    assert int(start.min()) >= 0 and int(start.max()) <= 1000


def test_needles_have_different_keys_and_those_asked_for_are_drawn_evenly() -> None:
    task = make("needles:needles=5,questions=2,letters=1,length=300")
    batch = task.batch(1500, seed=0)
    check_questions(batch)
    context = 300 - 2 * 30 + 3
    places = np.zeros((2, 5))
    letters = np.zeros(26)
    for tokens, targets, asked in zip(batch.inputs, batch.targets, batch.asked, strict=True):
        numbers = dict(NUMBER.findall(said(tokens[:context])))
        keys = re.findall(r"The magic number of ([a-z]+) is ", said(tokens[context:]))
        assert len(numbers) == 5 and len(keys) == len(set(keys)) == 2
        assert said(targets[asked]) == numbers[keys[0]] + numbers[keys[1]]
        for question, key in enumerate(keys):
            places[question, list(numbers).index(key)] += 1
        letters[[ord(key) - ord("a") for key in numbers]] += 1
    assert np.abs(places / 1500 - 0.2).max() < 0.05
    assert np.abs(letters / 7500 - 1 / 26).max() < 0.01


def test_without_its_key_a_number_is_a_guess() -> None:
    """Who says the number of the first needle is right once in so many needles, else one digit in ten."""
    task = make("needles:needles=4,length=250")
    batch = task.batch(800, seed=2)
    guesses = torch.zeros_like(batch.inputs)
    for row, tokens in enumerate(batch.inputs):
        guesses[row, batch.asked[row]] = torch.tensor(list(NUMBER.findall(said(tokens))[0][1].encode()))
    score = float(task.score(task.answers(guesses), batch).mean())  # pyright: ignore[reportAttributeAccessIssue]
    assert abs(score - (0.25 + 0.75 * 0.1)) < 0.05


@pytest.mark.parametrize("line", ["passkey:length=500", "needles:length=500", "scattered_facts:length=500"])
def test_the_rest_is_an_excerpt_of_the_text_that_begins_anywhere(line: str, tmp_path: Path) -> None:
    text = "".join(f"{number:03d};" for number in range(100))
    (tmp_path / "text.txt").write_text(text)
    batch = make(line, text=str(tmp_path / "text.txt")).batch(40, seed=0)
    begins = set()
    for tokens, asked in zip(batch.inputs, batch.asked, strict=True):
        if line.startswith("scattered"):
            rest = said(tokens[tokens < 256])
        else:
            rest = NUMBER.sub("", KEY.sub("", said(tokens[: int(asked.nonzero()[0]) + 1])))
            rest = re.sub(r"The (pass key|magic number of [a-z]+) is $", "", rest)
        assert rest in text * 3 and len(rest) > 300
        begins.add(rest[:4])
    assert len(begins) > 25


@pytest.mark.parametrize("line", ["passkey", "needles:questions=3,length=280", "scattered_facts"])
def test_a_long_text_hides_the_same(line: str) -> None:
    task = make(line)
    long = task.at_length(65536)
    batch = long.batch(2, seed=0)
    assert batch.inputs.shape == (2, 65536) and long.replace(length=task.length) == task
    assert batch.asked.sum() == task.batch(2, seed=0).asked.sum()
    assert long.score(long.solve(batch.inputs), batch).min() == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("passkey:length=42", "at least 43: a key of digits=5"),
        ("passkey:digits=0", r"Passkey\(digits=\) must be at least 1; got 0"),
        ("needles:letters=1,needles=27", r"at most 26\*\*letters = 26"),
        ("needles:questions=5", "at most needles=4"),
        ("needles:letters=13", "at most 12"),
        ("needles:length=151", "must be at least 152: needles=4"),
        ("scattered_facts:hops=4", "is 1, 2 or 3; got 4"),
        ("scattered_facts:sentences=3", r"ScatteredFacts\(sentences=\) must be at least 4"),
        ("scattered_facts:length=27", "must be at least 28: sentences=8"),
    ],
)
def test_hiding_places_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(line)


def test_texts_that_cannot_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("pass key is lost. And so on. The ")  # says it where the end meets the beginning
    with pytest.raises(InvalidValue, match="says 'The pass key is ' itself"):
        make("passkey", text=str(path)).batch(1, seed=0)
    make("needles", text=str(path)).batch(1, seed=0)
    with pytest.raises(DataError, match="there is no data at"):
        make("passkey", text=str(tmp_path / "nothing")).batch(1, seed=0)
