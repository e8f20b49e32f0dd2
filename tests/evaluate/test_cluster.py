"""Sweeps whose trials run on Dask's workers."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mnemos as mn
from mnemos.cli import compare as command
from mnemos.cli import main
from mnemos.errors import RunError
from mnemos.evaluate.sweep import run_trials
from mnemos.evaluate.trial import Trial
from mnemos.tasks import make

EASY = "mqar:pairs=2,tokens=8,length=12"
SIZE = ["--width=16", "--depth=1", "--batch=2", "--steps=2", "--seeds=2", "--rates", "1e-3", "--questions=8"]


def trial(**changes: Any) -> Trial:
    task = make(EASY).to_json()
    given = {"model": mn.zoo.model("gated_deltanet", width=16, depth=1, heads=2).to_json(), "learn": (task,)}
    return Trial(**{**given, "ask": (task,), "steps": 3, "batch": 4, "questions": 20, **changes})


@pytest.fixture
def cluster() -> Iterator[Any]:
    """One process whose worker has four threads."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None, protocol="tcp"
    ) as made:
        yield made


def test_a_cluster_gives_the_numbers_of_one_process(cluster: Any, tmp_path: Path) -> None:
    trials = [trial(seed=seed) for seed in range(6)]
    alone = run_trials(trials, tmp_path / "alone", progress=False)
    with cluster.get_client() as client:
        found = run_trials(trials, tmp_path / "s", executor=client.get_executor(pure=False), progress=False)
    assert [o.answers for o in found.values()] == [o.answers for o in alone.values()]
    assert [o.losses for o in found.values()] == [o.losses for o in alone.values()]


def test_a_trial_that_raises_on_a_worker_is_named_and_the_others_are_kept(cluster: Any, tmp_path: Path) -> None:
    unfit = trial(ask=(make("mqar:tokens=64").to_json(),), seed=7)
    trials = [trial(), unfit, trial(seed=1), trial(seed=2)]
    with cluster.get_client() as client:
        with pytest.raises(RunError) as caught:
            run_trials(trials, tmp_path / "s", executor=client.get_executor(pure=False), progress=False)
        assert str(caught.value).startswith("the trial of ModelSpec(")
        for part in (
            "on MultiQueryRecall(length=12, pairs=2, tokens=8), rate 0.003, seed 7, failed with InvalidValue: tasks of",
            f"3 of 4 trials are done and kept in {tmp_path / 's'}",
        ):
            assert part in str(caught.value)
        assert sorted(p.stem for p in (tmp_path / "s" / "trials").iterdir()) == sorted(
            one.key for one in trials if one is not unfit
        )
    rest = [one for one in trials if one is not unfit]
    assert len(run_trials(rest, tmp_path / "s", progress=False)) == 3


def test_compare_runs_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    words = ["compare", "deltanet", "--tasks", EASY, *SIZE]
    assert main([*words, "--out", str(tmp_path / "one"), "--workers=1"]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "--cluster", cluster.scheduler_address]) == 0
    one, two = (
        list(csv.DictReader(io.StringIO((tmp_path / name / "table.csv").read_text(encoding="utf-8"))))
        for name in ("one", "two")
    )
    for row in [*one, *two]:
        del row["tokens_per_second"], row["seconds_per_token"]
    assert one == two and len(one) > 1


def test_a_cluster_without_workers_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp") as empty,
        command._executor(empty.scheduler_address) as executor,
    ):
        assert executor is not None
        assert f"{empty.scheduler_address} has no workers yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:1", "--cluster tcp://127.0.0.1:1: no Dask scheduler answers there (Timed out"),
        ("nonsense", "--cluster nonsense: no Dask scheduler answers there (missing port number"),
    ],
)
def test_a_scheduler_that_does_not_answer(
    address: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(command, "ANSWERS_WITHIN", "300ms")
    words = ["compare", "deltanet", "--tasks", EASY, *SIZE, "--out", str(tmp_path / "c"), "--cluster", address]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Start one with `dask scheduler`" in shown
    assert not (tmp_path / "c").exists()


def test_without_dask_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["compare", "deltanet", "--out", str(tmp_path / "c"), "--cluster", "tcp://127.0.0.1:1"]
    assert main(words) == 2
    assert '--cluster needs Dask: pip install "mnemos[cluster]"' in capsys.readouterr().err


def test_dask_and_the_harness_are_loaded_only_where_asked_for() -> None:
    code = (
        "import sys, mnemos, mnemos.cli, mnemos.cli.compare, mnemos.cli.harness, mnemos.evaluate.sweep\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed', 'lm_eval')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
