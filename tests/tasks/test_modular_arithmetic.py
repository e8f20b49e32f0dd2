import re

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


def from_the_left(words: list[str], modulus: int) -> int:
    value = int(words[0])
    for sign, number in zip(words[1::2], words[2::2], strict=True):
        value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[sign] % modulus
    return value % modulus


@pytest.mark.parametrize("order", ["precedence", "left"])
@pytest.mark.parametrize(("operators", "modulus"), [("+-*", 5), ("*-", 7), ("+", 3)])
def test_values_are_those_of_python(operators: str, modulus: int, order: str) -> None:
    task = make("modular_arithmetic", operators=operators, modulus=modulus, order=order, length=25)
    batch = task.batch(60, seed=0)
    for tokens, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        words = [str(token) if token < modulus else operators[token - modulus] for token in tokens]
        for t in range(2, 25, 2):
            part = words[: t + 1]
            expected = from_the_left(part, modulus) if order == "left" else eval("".join(part)) % modulus
            assert targets[t] == expected, part
    assert (batch.asked == ((torch.arange(25) % 2 == 0) & (torch.arange(25) > 0))).all()
    assert batch.facts["steps"][0, ::2].tolist() == list(range(13))


def test_the_examples_of_the_paper() -> None:
    task = make("modular_arithmetic:asked=last,length=11")
    for text, value in {"1+2*3": 2, "1-1-1": 4, "0*1+4*3-2": 0}.items():
        tokens = [5 + "+-*".index(c) if c in "+-*" else int(c) for c in text]
        assert task.solve(torch.tensor([tokens]))[0, -1].argmax() == value


@pytest.mark.parametrize("length", [20, 21])
def test_the_last_number_can_be_the_only_question(length: int) -> None:
    task = make(f"modular_arithmetic:asked=last,length={length}")
    batch = task.batch(5, seed=0)
    assert (batch.asked == (torch.arange(length) == (length - 1) // 2 * 2)).all()
    assert (batch.inputs[batch.asked] < 5).all()


def test_numbers_and_operators_are_drawn_evenly() -> None:
    batch = make("modular_arithmetic:modulus=3,length=64").batch(1000, seed=0)
    found = torch.bincount(batch.inputs.flatten(), minlength=6) / batch.inputs.numel()
    assert torch.allclose(found, torch.full((6,), 1 / 6), atol=0.01)
    assert (batch.inputs[:, ::2] < 3).all() and (batch.inputs[:, 1::2] >= 3).all()


@pytest.mark.parametrize("knobs", ["order=left", "modulus=4", "operators=+-", "operators=*,asked=last", "modulus=6"])
def test_chance_is_the_share_of_the_likeliest_answer_at_each_place(knobs: str) -> None:
    task = make(f"modular_arithmetic:{knobs},length=9")
    batch = task.batch(20000, seed=0)
    shares = [torch.bincount(batch.targets[:, t]).max() / 20000 for t in range(2, 9, 2) if bool(batch.asked[0, t])]
    assert abs(float(torch.stack(shares).mean()) - task.chance) < 0.01


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modular_arithmetic:modulus=1", "modulus=) must be at least 2; got 1"),
        ("modular_arithmetic:length=2", "length=) must be at least 3; got 2"),
        ("modular_arithmetic:operators=+/", "is some of + - *, each once, such as +-*; got '+/'"),
        ("modular_arithmetic:operators=++", "each once"),
        ("modular_arithmetic:operators=", "some of"),
        ("modular_arithmetic:order=right", 'order=) is "precedence" or "left"'),
        ("modular_arithmetic:asked=never", 'asked=) is "every" or "last"'),
    ],
)
def test_arithmetic_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        make(line)
