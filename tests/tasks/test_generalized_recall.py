from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make

BLANK, IS, NOT, MEMBER, CATEGORY, YES, NO = range(7)

FORMS = [f"answer={a},truth={t},swapped={s}" for a in ("member", "category") for t in ("false", "true") for s in (0, 1)]
SHAPE = "pairs=3,categories=4,members=3,length=30"  # three examples of 9 tokens, three blanks


def category(token: int, side: int) -> int:
    """The category's token; sides are 0 and 1, each of 4 categories and 12 members behind the 7 words."""
    first = 7 + 16 * side
    assert first + 4 <= token < first + 16
    return first + (token - first - 4) // 3


@pytest.mark.parametrize("form", FORMS)
def test_exactly_one_pair_fits_and_gives_the_answer(form: str) -> None:
    line = form.replace("swapped=0", "swapped=false").replace("swapped=1", "swapped=true")
    task = make(f"generalized_recall:{SHAPE},{line}")
    by, of = (1, 0) if "swapped=1" in form else (0, 1)
    batch = task.batch(150, seed=0)
    seen = Counter()
    for row in range(150):
        tokens, targets = batch.inputs[row].tolist(), batch.targets[row].tolist()
        assert batch.asked[row].nonzero()[:, 0].tolist() == [8, 17, 26] and tokens[27:] == [BLANK] * 3
        for start in (0, 9, 18):
            pairs = [(tokens[start + i + by], tokens[start + i + of]) for i in (0, 2, 4)]
            word, wanted, cue = tokens[start + 6 : start + 9]
            assert word in (IS, NOT)
            through = cue < 7 + 16 * by + 4
            like = [(category(a, by) if through else a) == cue for a, _ in pairs]
            fitting = [i for i in range(3) if like[i] == (word == IS)]
            assert len(fitting) == 1
            at = fitting[0]
            named = [category(b, of) if "answer=category" in form else b for _, b in pairs]
            assert len({*named} - {named[at]}) >= 1 and named.count(named[at]) == 1
            if "truth=true" in form:
                assert wanted in named and targets[start + 8] == (YES if wanted == named[at] else NO)
            else:
                assert wanted == (CATEGORY if "answer=category" in form else MEMBER)
                assert targets[start + 8] == named[at]
            facts = {name: int(fact[row, start + 8]) for name, fact in batch.facts.items()}
            assert facts == {
                "relations": through + ("answer=category" in form),
                "negative": word == NOT,
                "delay": 8 - (2 * at + 1),
            }
            if word == NOT and through:
                assert len({a for a, _ in pairs}) == 3
            seen[word, through, at] += 1
    assert len(seen) == 12 and min(seen.values()) > 15  # of 450 / 12


def test_what_is_drawn_evenly_is() -> None:
    """Answers, keys and places; and none tells of another."""
    task = make(f"generalized_recall:{SHAPE},answer=member")
    batch = task.batch(4000, seed=1)
    answers = batch.targets[batch.asked] - 27
    share = torch.bincount(answers, minlength=12).double() / len(answers)
    assert torch.allclose(share, torch.full((12,), 1 / 12, dtype=torch.float64), atol=0.01)
    parts = batch.inputs[:, :27].reshape(-1, 9)
    at = (8 - batch.facts["delay"][batch.asked] - 1) // 2
    keys = parts[torch.arange(len(parts)), 2 * at] - 11
    for x, size in ((keys, 12), (at, 3), (keys % 3, 3), (keys // 3, 4)):
        for y, other in ((answers, 12), (answers % 3, 3), (answers // 3, 4)):
            joint = torch.bincount(x * other + y, minlength=size * other).double() / len(x)
            assert torch.allclose(joint, torch.full_like(joint, 1 / (size * other)), atol=0.012)
    for side in (0, 1):
        share = torch.bincount(parts[:, side:6:2].flatten() - 11 - 16 * side, minlength=12) / (3 * len(parts))
        assert torch.allclose(share, torch.tensor(1 / 12), atol=0.01)
    cue = torch.where(parts[:, 8] < 11, parts[:, 8] - 7, (parts[:, 8] - 11) // 3)
    away = ((keys // 3 - cue) % 4)[parts[:, 6] == NOT]
    share = torch.bincount(away, minlength=4) / len(away)
    assert torch.allclose(share, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02)
    for word, by_category in ((IS, True), (IS, False), (NOT, True), (NOT, False)):
        which = (parts[:, 6] == word) & ((parts[:, 8] < 11) == by_category)
        assert abs(float(which.double().mean()) - 0.25) < 0.02


@pytest.mark.parametrize(("name", "value"), [("by_category", 0.8), ("negative", 0.1)])
def test_shares_are_what_they_say(name: str, value: float) -> None:
    batch = make(f"generalized_recall:{SHAPE},{name}={value}").batch(2000, seed=2)
    fact = batch.facts["negative"] if name == "negative" else batch.facts["relations"] - 1
    assert abs(float(fact[batch.asked].double().mean()) - value) < 0.02


def test_truth_is_told_as_often_and_not_by_the_candidate() -> None:
    batch = make(f"generalized_recall:{SHAPE},truth=true").batch(4000, seed=3)
    yes = (batch.targets[batch.asked] == YES).double()
    assert abs(float(yes.mean()) - 0.5) < 0.02
    candidate = batch.inputs[:, :27].reshape(-1, 9)[:, 7]
    for each in range(23, 27):
        assert abs(float(yes[candidate == each].mean()) - 0.5) < 0.04


def test_pairs_of_another_example_are_worth_no_more_than_a_guess() -> None:
    """The questions of each example behind the pairs of the one before."""
    task = make("generalized_recall:pairs=3,answer=member,length=90")
    batch = task.batch(300, seed=4)
    parts = batch.inputs.view(300, 10, 9)
    mixed = torch.cat([parts.roll(1, 1)[..., :6], parts[..., 6:]], -1).view(300, 90)
    assert float(task.score(task.solve(mixed), batch).mean()) < 0.05


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ("pairs=1", r"GeneralizedRecall\(pairs=\) must be at least 2; got 1"),
        ("pairs=6", "must be at least pairs - 1 = 5, since all keys but one may be of one category; got 4"),
        ("length=8", r"at least 2 \* pairs \+ 3 = 9, one example; got 8"),
        ("answer=value", """is "member" or "category"; got 'value'"""),
        ("negative=1.5", r"GeneralizedRecall\(negative=\) is a share in \[0, 1\]; got 1.5"),
        ("by_category=-1", r"GeneralizedRecall\(by_category=\) is a share"),
    ],
)
def test_impossible_difficulty_is_refused(knobs: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(f"generalized_recall:{knobs}")
