import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make

TASK = make("delayed_match:delay=5,symbols=3,length=31,distractors=0.4")
NO, YES, BLANK, SAMPLE, TEST = 3, 4, 5, 6, 7


def test_trials_follow_one_another_and_say_whether_the_sample_came_again() -> None:
    batch = TASK.batch(200, seed=0)
    for tokens, targets, asked, delay, match in zip(
        *(x.tolist() for x in (batch.inputs, batch.targets, batch.asked, batch.facts["delay"], batch.facts["match"])),
        strict=True,
    ):
        assert tokens[27:] == [BLANK] * 4 and not any(asked[27:])
        for begin in (0, 9, 18):
            trial = tokens[begin : begin + 9]
            assert trial[0] == SAMPLE and trial.count(SAMPLE) == trial.count(TEST) == 1
            end = trial.index(TEST) + 1
            assert [i for i in range(9) if asked[begin + i]] == [end]
            assert all(token < 3 or token == BLANK for token in trial[2 : end - 1])
            assert all(token == BLANK for token in trial[end + 1 :])
            same = trial[1] == trial[end]
            assert targets[begin + end] == (YES if same else NO) and match[begin + end] == same
            assert delay[begin + end] == end - 1


def test_delays_answers_symbols_and_distractors_have_their_frequencies() -> None:
    batch = TASK.batch(4000, seed=0)
    asked = batch.asked
    delays = batch.facts["delay"][asked].bincount() / int(asked.sum())
    assert len(delays) == 8 and float((delays[3:] - 0.2).abs().max()) < 0.02
    assert abs(float(batch.facts["match"][asked].double().mean()) - 0.5) < 0.02
    after = torch.zeros_like(asked)
    after[:, 1:] = batch.inputs[:, :-1] == SAMPLE
    for places in (asked, after):
        shares = batch.inputs[places].bincount(minlength=8) / int(places.sum())
        assert float((shares[:3] - 1 / 3).abs().max()) < 0.02
    inside = torch.zeros_like(asked)
    for begin in (0, 9, 18):
        inside[:, begin + 2] = True  # every delay has a first token
    assert abs(float((batch.inputs[inside] < 3).double().mean()) - 0.4) < 0.02


def test_a_longer_sequence_has_more_trials_of_the_same_delays() -> None:
    task = make("delayed_match")
    short, long = task.batch(50, seed=0), task.at_length(4 * task.length).batch(50, seed=0)
    assert int(long.asked.sum()) == 4 * int(short.asked.sum()) == 800
    assert int(long.facts["delay"][long.asked].max()) == 30


def test_delayed_match_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r"DelayedMatch\(length=\) must be at least delay \+ 4 = 129.*got 128"):
        make("delayed_match:delay=125")
    with pytest.raises(InvalidValue, match=r"DelayedMatch\(distractors=\) is a share in \[0, 1\]; got 2"):
        make("delayed_match:distractors=2")
