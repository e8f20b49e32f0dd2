import pytest

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("cue", ["special", "any"])
def test_the_answer_followed_the_cue_the_only_time_it_was_seen(cue: str) -> None:
    batch = make("induction:tokens=5,length=20", cue=cue).batch(500, seed=0)
    cues = set()
    for tokens, targets, asked, delay in zip(
        *(x.tolist() for x in (batch.inputs, batch.targets, batch.asked, batch.facts["delay"])), strict=True
    ):
        last = tokens[-1]
        cues.add(last)
        assert asked == [False] * 19 + [True]
        assert tokens.count(last) == 2
        place = tokens.index(last)
        assert targets[-1] == tokens[place + 1] != last and delay[-1] == 19 - (place + 1)
    assert cues == ({5} if cue == "special" else {0, 1, 2, 3, 4})


@pytest.mark.parametrize("cue", ["special", "any"])
def test_places_and_answers_are_drawn_evenly(cue: str) -> None:
    batch = make("induction:tokens=4,length=12", cue=cue).batch(8000, seed=0)
    answers, delays = batch.targets[:, -1].bincount() / 8000, batch.facts["delay"][:, -1].bincount() / 8000
    assert len(answers) == 4 and float((answers - 0.25).abs().max()) < 0.02
    assert delays[0] == 0 and len(delays) == 11 and float((delays[1:] - 0.1).abs().max()) < 0.015


def test_knowing_the_cue_alone_leaves_a_guess_among_the_other_tokens() -> None:
    batch = make("induction:tokens=4,length=12,cue=any").batch(12000, seed=0)
    of_one = batch.targets[:, -1][batch.inputs[:, -1] == 2].bincount(minlength=4).double()
    assert of_one[2] == 0 and float((of_one[[0, 1, 3]] / of_one.sum() - 1 / 3).abs().max()) < 0.04


def test_induction_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r'Induction\(cue=\) is "special" or "any"; got \'none\''):
        make("induction:cue=none")
    with pytest.raises(InvalidValue, match=r"Induction\(length=\) must be at least 3"):
        make("induction:length=2")
