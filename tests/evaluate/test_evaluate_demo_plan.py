"""What a demo decides before it trains: the opponent, the number of steps, and that both stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import mnemos as mn
from mnemos.errors import DataError, InvalidValue, RunError
from mnemos.evaluate import demo_plan
from mnemos.evaluate.demo_plan import Asked, Plan, affordable_steps, make_plan, matching_transformer, refuse_short
from mnemos.evaluate.demo_plan import training_runs as runs
from mnemos.train import ByteTokenizer, open_corpus

TINY = Asked(data="text.txt", steps=3, width=16, depth=1, heads=2, length=16, batch=2, stream=8192)


@pytest.mark.parametrize(("width", "depth", "heads"), [(128, 2, 2), (16, 1, 2), (32, 3, 1), (64, 1, 4), (192, 4, 3)])
def test_the_transformer_has_as_many_parameters(width: int, depth: int, heads: int) -> None:
    asked = dataclasses.replace(TINY, width=width, depth=depth, heads=heads)
    ours = mn.LanguageModel(mn.zoo.model("titans_mag", width=width, depth=depth, heads=heads, vocabulary=257))
    theirs = mn.LanguageModel(matching_transformer(asked))
    assert abs(theirs.parameters_count() / ours.parameters_count() - 1) <= 0.01
    assert theirs.spec.layers[0] == mn.zoo.sliding_window() and theirs.spec.depth == depth


def test_the_runs_differ_in_the_system_and_nothing_else(here: Path) -> None:
    one, two = runs(TINY, 3, here)
    differing = {line.split(":")[0] for line in one.differences(two)}
    assert differing == {"system", "width", "depth", "heads"}


def test_steps_fill_the_time_that_was_given(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    clock = [0.0]

    class Timed:
        def __init__(self, config, say, progress):
            self.cost, self.steps = (0.3 if config.system == "titans_mag" else 0.1), 0

        def train_step(self):
            clock[0] += self.cost if self.steps > 1 else 5.0  # the first two are slow
            self.steps += 1

    monkeypatch.setattr(demo_plan, "Trainer", Timed)
    monkeypatch.setattr(demo_plan.time, "perf_counter", lambda: clock[0])
    asked = dataclasses.replace(TINY, steps=None, minutes=2.0)
    assert affordable_steps(asked, here) == 600  # 600 * (0.3 + 0.1) seconds are 2 * 2 minutes


def test_a_plan_is_made_once(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    corpus = open_corpus("text.txt", ByteTokenizer())
    asked = dataclasses.replace(TINY, steps=None)
    monkeypatch.setattr(demo_plan, "affordable_steps", lambda asked, out: 17)
    plan = make_plan(asked, corpus, here / "demo")
    monkeypatch.setattr(demo_plan, "affordable_steps", lambda asked, out: 99)
    assert make_plan(asked, corpus, here / "demo") == plan == Plan.from_json(plan.to_json())
    assert plan.steps == 17


def test_another_demo_or_another_text_in_the_folder_is_refused(here: Path) -> None:
    corpus = open_corpus("text.txt", ByteTokenizer())
    make_plan(TINY, corpus, here / "demo")
    with pytest.raises(RunError, match=r"another configuration \(there, here\): steps: 3, 4; seed: 0, 1\. Give"):
        make_plan(dataclasses.replace(TINY, steps=4, seed=1), corpus, here / "demo")
    changed = dataclasses.replace(corpus, fingerprint="changed")
    with pytest.raises(RunError, match=r"the text of text\.txt was changed"):
        make_plan(TINY, changed, here / "demo")


def test_a_text_that_is_too_short_is_refused(here: Path) -> None:
    corpus = open_corpus("text.txt", ByteTokenizer())
    refuse_short(TINY, corpus)
    with pytest.raises(DataError, match=r"too short for the demo: .* two windows of 512, 1,025 in all.* 20,500 bytes"):
        refuse_short(dataclasses.replace(TINY, length=64), corpus)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "--minutes must be positive; got 0"),
        ({"steps": 0}, "--steps must be at least 1; got 0"),
        ({"length": 8}, "--length must be at least 16"),
        ({"stream": 100}, "at least 4 pieces of 2,048 tokens; got 100"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        dataclasses.replace(TINY, **changes)
