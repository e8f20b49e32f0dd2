"""Trials, sweeps over them, and comparisons made of them."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidValue, RunError
from mnemos.evaluate import sweep
from mnemos.evaluate.compare import Compared, Setting, _sized, compare
from mnemos.evaluate.compared_pictures import draw
from mnemos.evaluate.compared_text import as_csv, markdown
from mnemos.evaluate.sizing import parameters
from mnemos.evaluate.sweep import run_trials
from mnemos.evaluate.trial import Outcome, Trial, run_trial
from mnemos.tasks import make
from mnemos.train import Optimiser

EASY = "mqar:pairs=2,tokens=8,length=12"


def trial(**changes: object) -> Trial:
    task = make(EASY)
    model = mn.zoo.model("gated_deltanet", width=16, depth=1, heads=2)
    given = {"steps": 2, "batch": 4, "questions": 20} | changes
    return Trial(model=model.to_json(), learn=(task.to_json(),), ask=(task.to_json(),), **given)  # pyright: ignore


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the trials that were really run."""
    seen: list[str] = []

    def counted(one: Trial) -> Outcome:
        seen.append(one.key)
        return run_trial(one)

    monkeypatch.setattr(sweep, "run_trial", counted)
    return seen


def test_a_model_learns_what_it_is_taught_and_is_asked_what_it_has_not_seen() -> None:
    outcome = run_trial(trial(steps=250, batch=32, questions=400, optimiser=Optimiser(rate=1e-2, weight_decay=0.01)))
    assert outcome.losses[-1][1] < 0.5 * outcome.losses[0][1]
    assert outcome.answers[0].score.low > 0.6
    assert outcome.stopped is None


def test_a_trial_is_repeatable_and_every_choice_counts() -> None:
    first, again = run_trial(trial()), run_trial(Trial.from_json(trial().to_json()))
    assert first.answers == again.answers and first.losses == again.losses
    others = [trial(seed=1), trial(steps=3), trial(batch=5), trial(optimiser=Optimiser(rate=1.0))]
    assert len({one.key for one in [trial(), *others]}) == 5
    assert run_trial(others[0]).losses != first.losses


def test_a_trial_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    run_trial(trial())
    assert torch.equal(before, torch.get_rng_state())


def test_a_trial_that_diverges_says_so() -> None:
    outcome = run_trial(trial(steps=30, optimiser=Optimiser(rate=1e30, warmup=1, clip=1e30)))
    assert outcome.stopped is not None and "no longer finite in step" in outcome.stopped
    assert 0 <= outcome.answers[0].score.mean <= 1


def test_tasks_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(InvalidValue, match="the same inputs and outputs"):
        run_trial(Trial(trial().model, trial().learn, (make("mqar:tokens=64").to_json(),)))


def test_others_are_asked_with_the_weights_that_one_has_learned() -> None:
    full = mn.LayerSpec(mn.KVMemory(), conv=3)
    short = full.replace(memory=mn.KVMemory(retain=mn.Window(1)))
    whole = full.replace(memory=mn.KVMemory(retain=mn.Window(12)))
    specs = [mn.ModelSpec((layer,), width=16, depth=1, heads=2) for layer in (full, short, whole)]
    learned = {"model": specs[0].to_json(), "steps": 150, "batch": 32, "questions": 200}
    given = learned | {"optimiser": Optimiser(rate=1e-2, weight_decay=0.01)}
    task = (make(EASY).to_json(),)
    outcome = run_trial(Trial(learn=task, ask=task, asked_as=tuple(s.to_json() for s in specs), **given))
    itself, blind, same = (answers.score.mean for answers in outcome.answers)
    assert itself == same and itself > blind + 0.2
    assert run_trial(Trial(learn=task, ask=task, **given)).answers[0] == outcome.answers[0]
    with pytest.raises(InvalidValue, match=r"differs\. Change only what is kept and read"):
        run_trial(Trial(learn=task, ask=task, asked_as=(trial().model,), **given))


def test_models_that_answer_late_are_refused() -> None:
    late = mn.ModelSpec((mn.zoo.attendre(8, delay=4),), width=16, depth=1, heads=2)
    with pytest.raises(InvalidValue, match="come 4 tokens late"):
        run_trial(Trial(late.to_json(), trial().learn, trial().ask))


def test_scores_by_a_fact_cover_all_questions() -> None:
    answers = run_trial(trial(questions=300)).answers[0]
    assert set(answers.by) == {"delay", "pair", "place"}
    for parts in answers.by.values():
        assert sum(p.score.count * p.score.mean for p in parts) == pytest.approx(
            answers.score.mean * sum(p.score.count for p in parts), abs=1e-6
        )
    assert [(p.first, p.last) for p in answers.by["pair"]] == [(0, 0), (1, 1)]


def test_a_sweep_does_no_trial_twice_and_goes_on_where_it_was_killed(tmp_path: Path, runs: list[str]) -> None:
    trials = [trial(seed=s) for s in range(3)]
    real = sweep.run_trial

    def killed(one: Trial) -> Outcome:
        if one.seed == 1:
            raise KeyboardInterrupt
        return real(one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            run_trials(trials, tmp_path / "s", progress=False)
    assert runs == [trials[0].key]
    found = run_trials(trials, tmp_path / "s", progress=False)
    assert runs == [one.key for one in trials]
    assert run_trials(trials, tmp_path / "s", progress=False) == found and len(runs) == 3
    assert list(found) == runs


def test_an_executor_of_ones_own_runs_the_trials(tmp_path: Path, runs: list[str]) -> None:
    trials = [trial(seed=s) for s in range(3)]
    with ThreadPoolExecutor(1) as executor:
        found = run_trials(trials, tmp_path / "s", executor=executor, progress=False)
    assert sorted(runs) == sorted(found) and len(runs) == 3


def test_a_trial_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials, real = [trial(seed=s) for s in range(4)], sweep.run_trial

    def failing(one: Trial) -> Outcome:
        if one.seed in (1, 2):
            raise MemoryError("no room")
        return real(one)

    monkeypatch.setattr(sweep, "run_trial", failing)
    message = (
        r"on MultiQueryRecall\(length=12, pairs=2, tokens=8\), rate 0\.003, seed 1, failed with MemoryError: no room\. "
        r"1 more failed\. 2 of 4 trials are done and kept in .*s: mend the cause, and the same call runs only"
    )
    with pytest.raises(RunError, match=message) as caught:
        run_trials(trials, tmp_path / "s")
    assert isinstance(caught.value.__cause__, MemoryError) and len(str(caught.value)) < 600
    assert capsys.readouterr().err.count("no room. The others go on.") == 1
    monkeypatch.setattr(sweep, "run_trial", real)
    assert list(run_trials(trials, tmp_path / "s", progress=False)) == [one.key for one in trials]


def test_a_process_that_dies_is_said(tmp_path: Path) -> None:
    class Dying(ThreadPoolExecutor):
        def submit(self, *_: object) -> Future[Outcome]:  # pyright: ignore[reportIncompatibleMethodOverride]
            future: Future[Outcome] = Future()
            future.set_exception(BrokenExecutor("terminated abruptly"))
            return future

    with pytest.raises(RunError, match=r"a process of the sweep ended abruptly, often for want of memory\. 0 of 1"):
        run_trials([trial()], tmp_path / "s", executor=Dying(1), progress=False)


@pytest.mark.long
def test_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    trials = [trial(seed=s) for s in range(2)]
    one = run_trials(trials, tmp_path / "one", progress=False)
    two = run_trials(trials, tmp_path / "two", workers=2, progress=False)
    assert [o.answers for o in one.values()] == [o.answers for o in two.values()]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds other files \(notes.txt\) and no sweep"):
        run_trials([trial()], folder)
    with pytest.raises(RunError, match="is a file"):
        run_trials([trial()], folder / "notes.txt")


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"version": "0.0.1"}))
    with pytest.raises(RunError, match=r"holds trials of mnemos 0\.0\.1"):
        run_trials([trial()], tmp_path)


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    run_trials([trial()], tmp_path / "s", progress=False)
    path = tmp_path / "s" / "trials" / f"{trial().key}.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RunError, match=r"is damaged .* Delete it"):
        run_trials([trial()], tmp_path / "s")


SETTING = Setting(width=32, depth=1, steps=3, batch=4, rates=(1e-3, 1e-2), seeds=2, lengths=(1, 2), questions=20)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("compare") / "c"
    systems = ["gated_deltanet", "linear_attention", "transformer"]
    return compare(systems, {"easy": make(EASY)}, folder, SETTING, progress=False)


def test_at_every_size_of_state_the_parameters_are_those_of_the_first() -> None:
    """The first system too: more channels of keys are more parameters, which its feed-forward layers must give back."""
    systems = {name: mn.zoo.model(name) for name in ("gated_deltanet", "linear_attention", "sliding_window")}
    setting = replace(SETTING, width=64, state_bytes=(4096, 16384))
    made = _sized(systems, make(EASY), setting)
    assert [name for name, _ in made] == [*systems, *systems]
    (_, plain), *_ = _sized(systems, make(EASY), replace(setting, state_bytes=()))
    for _, spec in made:
        assert parameters(spec) == pytest.approx(parameters(plain), rel=0.03)


def test_all_systems_have_the_size_of_the_first(compared: Compared) -> None:
    first, second, growing = compared.curves
    assert first.parameters == pytest.approx(second.parameters, rel=0.03)
    assert first.parameters == pytest.approx(growing.parameters, rel=0.03)
    assert first.state_bytes == pytest.approx(second.state_bytes, rel=0.1)
    assert growing.state_grows and not first.state_grows


def test_a_comparison_asks_at_every_length_and_knows_chance(compared: Compared) -> None:
    assert all(curve.lengths == (12, 24) and len(curve.scores) == 2 for curve in compared.curves)
    assert compared.chance == {"easy": 0.25}
    assert all(score.count == SETTING.seeds for curve in compared.curves for score in curve.scores)


def test_the_learning_rate_is_chosen_by_questions_kept_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from mnemos.evaluate import compare as room

    real = run_trials

    def rigged(trials: list[Trial], *args: object, **kwargs: object) -> dict[str, Outcome]:
        found = real(trials, *args, **kwargs)  # pyright: ignore
        for one in trials:
            answers = tuple(replace(a, chosen_by=one.optimiser.rate) for a in found[one.key].answers)
            found[one.key] = replace(found[one.key], answers=answers)
        return found

    monkeypatch.setattr(room, "run_trials", rigged)
    result = compare(["linear_attention"], {"easy": make(EASY)}, tmp_path / "c", SETTING, progress=False)
    assert result.curves[0].rate == 1e-2


def test_several_sizes_make_a_curve(tmp_path: Path) -> None:
    sizes = (1500, 3000)
    setting = Setting(width=32, depth=1, steps=1, batch=2, rates=(1e-3,), seeds=2, state_bytes=sizes, questions=4)
    systems = ["linear_attention", "sliding_window"]
    result = compare(systems, {"easy": make(EASY)}, tmp_path / "c", setting, progress=False)
    for system in systems:
        assert [c.state_bytes for c in result.of("easy", system)] == pytest.approx(sizes, rel=0.1)


def test_tables_say_everything_and_read_back(compared: Compared) -> None:
    text = markdown(compared)
    for curve in compared.curves:
        line = next(line for line in text.splitlines() if line.startswith(f"| {curve.system} |"))
        assert f"{curve.parameters:,}" in line and f"{curve.scores[1].mean:.3f}" in line
    assert "a guess has 0.25" in text and "2 seeds" in text
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    whole = [row for row in rows if not row["fact"]]
    assert len(whole) == 6 and float(whole[0]["score"]) == compared.curves[0].scores[0].mean
    assert {row["fact"] for row in rows} == {"", "delay", "pair", "place"}
    assert Compared.from_json(compared.to_json()) == compared


def test_there_is_a_picture_a_task(compared: Compared, tmp_path: Path) -> None:
    (path,) = draw(compared, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"rates": (0.0,)}, "--rates are positive"),
        ({"lengths": (0,)}, "--lengths are multiples"),
        ({"state_bytes": (0,)}, "--state-bytes are positive"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Setting(**changes)  # pyright: ignore


def test_nothing_is_written_before_all_is_known_to_be_possible(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="cannot be given a state of"):
        compare(["gated_deltanet", "hawk"], {"easy": make(EASY)}, tmp_path / "c", SETTING)
    with pytest.raises(InvalidValue, match="given twice"):
        compare(["hawk", "hawk"], {"easy": make(EASY)}, tmp_path / "c", SETTING)
    assert not (tmp_path / "c").exists()
