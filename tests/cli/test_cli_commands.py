from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mnemos as mn
from mnemos.cli import COMMANDS, main
from mnemos.train import load_model

SIZES = "--width 16 --depth 1 --heads 2 --length 16 --batch 2 --warmup 2 --evaluate-tokens 64"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text in it, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the memory holds what was written. " * 100, encoding="utf-8")
    return tmp_path


def train(out: str = "run", system: str = "linear_attention", more: str = "", steps: int = 6) -> int:
    return main(
        f"train --system {system} --data text.txt --out {out} --device cpu --steps {steps} {SIZES} {more}".split()
    )


def generate(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["generate", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_shows_every_command_and_how_to_begin(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f"  {name}" in shown and summary in shown
    assert "mnemos train --system gated_deltanet --data stdlib" in shown


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: mnemos {name}" in shown
    if name in ("train", "generate"):
        assert f"mnemos {name} " in shown.split("options ─")[0].split("\n", 1)[1], "an example of its use"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.match(r"mnemos (\d+\.\d+|\(not installed\))", capsys.readouterr().out)


def test_an_unknown_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "there is no command 'trian'. Perhaps you meant `mnemos train`." in capsys.readouterr().err


def test_an_error_is_one_message_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--system", "linear_attention", "--data", "gone.txt", "--out", "run", "--steps", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mnemos train: there is no data at gone.txt.")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_unfit_options_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["--steps", "3", "--minutes", "2"], "got both"),
        (["--steps", "many"], "many"),
        (["--stepz", "3"], "--steps"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["train", "--system", "linear_attention", "--data", "text.txt", "--out", "run", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_the_command_runs_in_a_process_of_its_own() -> None:
    words = [
        sys.executable,
        "-m",
        "mnemos.cli",
        "train",
        "--system",
        "x",
        "--data",
        "y",
        "--out",
        "z",
        "--steps",
        "0",
    ]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "steps must be at least 1; got 0" in ended.stderr


def test_the_package_is_the_command() -> None:
    ended = subprocess.run([sys.executable, "-m", "mnemos", "--version"], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.startswith("mnemos ")


def test_a_quiet_run_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(more="--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_train_then_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    captured = capsys.readouterr()
    assert "step 6: held-out loss" in captured.err
    assert re.search(r"run: 6 steps, \d\.\d{4} bits per byte held out\.\nTry it: mnemos generate run", captured.out)
    assert train(more="--seed 1") == 2
    assert "holds a run with another configuration (there, here): seed: 0, 1" in capsys.readouterr().err

    code, text, _ = generate(["run", "--prompt", "the mem", "--length", "30", "--seed", "1"], capsys)
    assert code == 0
    assert text.startswith("the mem") and text.endswith("\n") and len(text) > 15
    assert generate(["run", "--prompt", "the mem", "--length", "30", "--seed", "1"], capsys)[1] == text
    Path("prompt.txt").write_text("the mem")
    assert generate(["run", "--prompt-file", "prompt.txt", "--length", "30", "--seed", "1"], capsys)[1] == text
    assert generate(["run/checkpoints/step-00000006", "--length", "5"], capsys)[0] == 0  # a document begins


def test_a_saved_state_stands_for_the_text_it_has_read(capsys: pytest.CaptureFixture[str]) -> None:
    train(more="--quiet --rate 0.01", steps=80)  # long enough to write letters, not broken bytes
    settings = ["--temperature", "0", "--length", "25"]
    whole = generate(["run", "--prompt", "the memory holds what was ", *settings], capsys)[1]
    reading = ["run", "--prompt", "the memory holds ", "--length", "0", "--save-state", "read.safetensors"]
    code, shown, note = generate(reading, capsys)
    assert (code, shown) == (0, "the memory holds \n")
    assert re.fullmatch(r"memory of [\d,]+ bytes kept in read\.safetensors\n", note)
    rest = generate(["run", "--state", "read.safetensors", "--prompt", "what was ", *settings], capsys)[1]
    assert "the memory holds " + rest == whole

    # What was generated has been read as well.
    again = ["run", "--prompt", "the memory ", "--save-state", "written.safetensors", *settings]
    written = generate(again, capsys)[1].removesuffix("\n")
    assert written.isascii() and len(written) == 11 + 25
    model = load_model("run")
    state = mn.load_state("written.safetensors", for_=model)
    with torch.no_grad():
        _, expected = model(torch.tensor([list(written.encode())]))
    for (name, mine), (_, whole) in zip(state.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(mine, whole, msg=name)


def test_generate_refuses_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    train(more="--quiet")
    train("other", "gated_deltanet", more="--quiet")
    save = ["run", "--prompt", "a", "--length", "1", "--save-state", "s.safetensors"]
    assert generate(save, capsys)[0] == 0
    before = Path("s.safetensors").read_bytes()
    Path("latin.txt").write_bytes(b"ca\xf1a")

    for words, message in [
        (save, "s.safetensors exists already. Give another name, or --overwrite to replace it."),
        (["run", "--save-state", "no/where.safetensors"], "there is no folder no. Make it first."),
        (["other", "--state", "s.safetensors", "--prompt", "a"], "another owner"),
        (
            ["run", "--state", "gone.safetensors", "--prompt", "a"],
            "there is no saved state at gone.safetensors",
        ),
        (["run", "--state", "s.safetensors"], "--state needs a text to go on with."),
        (
            ["run", "--prompt", "a", "--prompt-file", "text.txt"],
            "both --prompt and --prompt-file were given.",
        ),
        (["run", "--prompt-file", "gone.txt"], "--prompt-file gone.txt cannot be read: No such file"),
        (
            ["run", "--prompt-file", "latin.txt"],
            "latin.txt is not UTF-8 text: invalid continuation byte at byte 2.",
        ),
        (["run", "--prompt", "a", "--top-p", "2"], "top_p must lie in (0, 1]; got 2.0."),
        (["nowhere", "--prompt", "a"], "there is no checkpoint in nowhere."),
    ]:
        code, shown, error = generate(words, capsys)
        assert (code, shown) == (2, ""), words
        assert error.startswith("mnemos generate: ") and message in error, words
    assert Path("s.safetensors").read_bytes() == before
    assert generate([*save, "--overwrite"], capsys)[0] == 0
