import itertools

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


def test_the_latest_value_is_the_answer_and_the_facts_are_counted() -> None:
    task = make("rebinding:keys=5,tokens=32,length=80,questions=0.4")
    batch = task.batch(100, seed=0)
    assert (batch.asked.sum(1) == 16).all()
    for tokens, targets, asked, gaps, bounds in zip(
        *(x.tolist() for x in (batch.inputs, batch.targets, batch.asked, batch.facts["delay"], batch.facts["bound"])),
        strict=True,
    ):
        written: dict[int, list[tuple[int, int]]] = {}
        for place in range(0, 80, 2):
            first, second = tokens[place : place + 2]
            assert not asked[place] and asked[place + 1] == (first == 0)
            if first == 0:
                where, value = written[second][-1]
                assert targets[place + 1] == value
                assert gaps[place + 1] == place + 1 - where and bounds[place + 1] == len(written[second])
            else:
                past = written.setdefault(first, [])
                assert 1 <= first < 16 <= second < 32 and (not past or past[-1][1] != second)
                past.append((place + 1, second))
        assert len(written) <= 5


def test_keys_values_and_questions_are_drawn_evenly() -> None:
    task = make("rebinding:keys=3,tokens=8,length=40")
    batch = task.batch(4000, seed=1)
    share = torch.bincount(batch.targets[batch.asked], minlength=8).double() / int(batch.asked.sum())
    assert torch.allclose(share[4:], torch.full((4,), 0.25, dtype=torch.float64), atol=0.01) and (share[:4] == 0).all()
    assert torch.allclose(batch.asked.double()[:, 3::2].mean(0), torch.tensor(5 / 19, dtype=torch.float64), atol=0.03)
    writes = batch.inputs[:, 0::2][batch.inputs[:, 0::2] > 0]
    share = torch.bincount(writes, minlength=4)[1:].double() / len(writes)
    assert torch.allclose(share, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.01)
    late = batch.asked.clone()
    late[:, :30] = False  # all keys are bound by then, nearly always
    share = torch.bincount(batch.inputs[late], minlength=4)[1:].double() / int(late.sum())
    assert torch.allclose(share, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.03)


def test_each_question_and_each_new_value_is_drawn_by_itself() -> None:
    """Whatever was asked or written before: the next key asked for and the next value are as likely as any other."""
    task = make("rebinding:keys=3,tokens=8,length=80")
    batch = task.batch(300, seed=3)
    same = pairs = 0
    steps = torch.zeros(4)
    for tokens, asked in zip(batch.inputs.tolist(), batch.asked.tolist(), strict=True):
        questions = [tokens[place] for place in range(41, 80, 2) if asked[place]]
        same += sum(a == b for a, b in itertools.pairwise(questions))
        pairs += max(len(questions) - 1, 0)
        value: dict[int, int] = {}
        for key, new in zip(tokens[0::2], tokens[1::2], strict=True):
            if key:
                if key in value:
                    steps[(new - value[key]) % 4] += 1
                value[key] = new
    assert abs(same / pairs - 1 / 3) < 0.06
    assert torch.allclose(steps / steps.sum(), torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.03)


def test_the_first_value_and_the_latest_one_of_all_are_no_answers() -> None:
    """Who remembers the first binding of a key, or the last value of any key, is right as seldom as it should be."""
    task = make("rebinding:keys=6,length=240")
    batch = task.batch(100, seed=2)
    first = last = seen = 0
    for tokens, targets, asked, bounds in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.asked.tolist(), batch.facts["bound"].tolist(), strict=True
    ):
        firsts: dict[int, int] = {}
        latest = 0
        for place in range(1, 240, 2):
            if not asked[place]:
                firsts.setdefault(tokens[place - 1], tokens[place])
                latest = tokens[place]
            elif bounds[place] >= 3:
                seen += 1
                first += firsts[tokens[place]] == targets[place]
                last += latest == targets[place]
    assert first / seen < 0.06
    assert abs(last / seen - (1 / 6 + 5 / 6 / 32)) < 0.04


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("keys=40", "more than twice keys=40"),
        ("length=31", "must be even, since each step takes two tokens; got 31"),
        ("questions=0.0", "a share of the steps between 0 and 1; got 0"),
        ("questions=1", "a share of the steps between 0 and 1; got 1"),
        ("keys=0", r"Rebinding\(keys=\) must be at least 1; got 0"),
    ],
)
def test_impossible_difficulty_is_refused(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(f"rebinding:{knobs}")
