"""The commands of this room, as typed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mnemos as mn
from mnemos.cli import demo, main
from mnemos.evaluate import BitsPerByte, LossByPosition, Streaming
from mnemos.evaluate.demo_results import Demonstration

SIZES = "--steps 3 --width 16 --depth 1 --heads 2 --length 16 --batch 2 --stream 8192"
DEMO = ["demo", "--data", "text.txt", *SIZES.split()]


def test_zoo_lists_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    short = capsys.readouterr().out
    assert main(["zoo", "--verbose"]) == 0
    long = capsys.readouterr().out
    for entry in mn.zoo.entries().values():
        (line,) = (line for line in short.splitlines() if line.split()[0] == entry.name)
        assert entry.arxiv in line and str(entry.year) in line and entry.title in line and entry.kind in line
        for deviation in entry.deviations:
            assert deviation in long and deviation not in short


def test_explain_says_what_runs_at_that_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["explain", "gated_deltanet", "--length", "65536", "--width", "32", "--depth", "2", "--heads", "2"]) == 0
    )
    shown = capsys.readouterr().out
    model = mn.LanguageModel(mn.zoo.model("gated_deltanet", width=32, depth=2, heads=2))
    assert "arXiv 2412.06464" in shown and "65536" in shown and model.explain(65536) in shown


def test_explain_names_the_nearest_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "gated_deltane"]) == 2
    assert "no system is called 'gated_deltane'; did you mean gated_deltanet" in capsys.readouterr().err


def test_evaluate_measures_and_writes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--tokens", "256", "--stream", "8192", "--device", "cpu", "--json", "found.json"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    found = json.loads(Path("found.json").read_text())
    held_out = BitsPerByte.from_json(json.dumps(found["held_out"]))
    by_position = LossByPosition.from_json(json.dumps(found["by_position"]))
    streamed = Streaming.from_json(json.dumps(found["streaming"]))
    assert (held_out.length, by_position.length, streamed.tokens) == (16, 128, 8192)
    assert str(held_out.value) in shown and str(by_position.beyond) in shown
    assert f"{streamed.late_over_early:.3f}" in shown and "constant" in shown

    before = Path("found.json").read_bytes()
    assert main(words) == 2
    assert "--json found.json exists already" in capsys.readouterr().err
    assert Path("found.json").read_bytes() == before


def test_evaluate_takes_other_text_and_a_single_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.txt").write_text("0123456789" * 1000)
    (checkpoint,) = (run / "checkpoints").iterdir()
    words = [
        "--data",
        "other.txt",
        "--tokens",
        "256",
        "--length",
        "64",
        "--stream",
        "8192",
        "--json",
        "other.json",
        "--device",
        "cpu",
    ]
    assert main(["evaluate", str(checkpoint), *words]) == 0
    assert json.loads(Path("other.json").read_text())["by_position"]["length"] == 64
    checkpoint.rename("alone")
    capsys.readouterr()
    assert main(["evaluate", "alone"]) == 2
    assert "lies outside its run" in capsys.readouterr().err


def test_evaluate_refuses_too_short_a_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--length", "100000", "--device", "cpu"]) == 2
    assert "two windows of 100,000 tokens are needed" in capsys.readouterr().err


def test_a_demo_goes_from_text_to_page_and_is_not_done_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DEMO, "--out", "out"]) == 0
    shown = capsys.readouterr().out
    out = here / "out"
    assert f"The report: {out / 'report.html'}" in shown
    demonstration = Demonstration.from_json((out / "results.json").read_text())
    ours, theirs = demonstration.systems
    assert abs(theirs.parameters / ours.parameters - 1) <= 0.01
    assert demonstration.steps == 3 and ours.training[-1].step == 3 and ours.training[-1].tokens == 3 * 2 * 16
    for system in demonstration.systems:
        assert system.continuation.exact and system.streaming.tokens == 8192
        assert system.sample.prompt and system.explanation and f"{system.parameters:,}" in shown
    assert "häufig" in ours.sample.prompt or "memory" in ours.sample.prompt
    assert demonstration.text.streamed == "the held-out text, read over and over,"
    again = "mnemos demo --data text.txt --width 16 --depth 1 --length 16 --batch 2 --stream 8192 --steps 3 --out out"
    assert demonstration.commands[0] == again  # two heads are the default
    page = (out / "report.html").read_text()

    # Done already: the same command measures nothing again and gives the same page.
    for name in ("bits_per_byte", "loss_by_position", "streaming", "save_and_continue", "sample"):
        monkeypatch.setattr(f"mnemos.cli.demo.{name}", None)
    (out / "report.html").unlink()
    assert main([*DEMO, "--out", "out"]) == 0
    assert (out / "report.html").read_text() == page
    # A measurement that is gone, or of another plan, is taken again.
    kept = out / "measured" / "titans_mag-streaming.json"
    kept.write_text(kept.read_text().replace('"key": "', '"key": "other'))
    with pytest.raises(TypeError, match="NoneType"):
        main([*DEMO, "--out", "out"])


@pytest.mark.long
def test_a_demo_that_was_killed_goes_on_to_the_numbers_of_an_unbroken_one(here: Path) -> None:
    words = [*DEMO, "--steps", "300"]
    for out, killed in (("unbroken", False), ("killed", True)):
        command = [sys.executable, "-m", "mnemos.cli", *words, "--out", out]
        root = str(Path(mn.__file__).parents[1])
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.DEVNULL)
        if killed:
            deadline = time.monotonic() + 120
            while not list(Path(out).glob("titans_mag/checkpoints/step-*")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (Path(out) / "sliding_window").exists(), "killed too late to show anything"
            assert subprocess.run(command, env={**os.environ, "PYTHONPATH": root}).returncode == 0
        assert process.wait() == (-signal.SIGKILL if killed else 0)
    one, two = (Demonstration.from_json(Path(out, "results.json").read_text()) for out in ("unbroken", "killed"))
    for ours, theirs in zip(one.systems, two.systems, strict=True):
        assert ours.held_out == theirs.held_out and ours.by_position == theirs.by_position
        assert ours.sample == theirs.sample
        assert [p.bits_per_byte for p in ours.training] == [p.bits_per_byte for p in theirs.training]


def test_an_interrupted_training_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    done = demo.train
    monkeypatch.setattr(demo, "train", lambda run: dataclasses.replace(done(run), finished=False))
    assert main([*DEMO, "--out", "out"]) == 130
    assert not Path("out/measured").exists() and not Path("out/report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [("--seed -1", "seed must lie in"), ("--batch 0", "batch must be at least 1"), ("--heads 3", "multiple of heads")],
)
def test_values_that_cannot_be_are_refused_before_anything_is_done(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DEMO, "--out", "out", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_too_short_a_text_is_refused_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    Path("short.txt").write_text("too short")
    assert main(["demo", "--data", "short.txt", "--out", "out"]) == 2
    assert "short.txt is too short for the demo" in capsys.readouterr().err
    assert not Path("out").exists()
