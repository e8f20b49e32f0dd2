from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mnemos.errors import RunError
from mnemos.train import TrainConfig, find_checkpoint, load_model, train
from mnemos.train.checkpoint import newest_checkpoint, read_checkpoint

FILES = ["model.json", "model.safetensors", "optimizer.pt", "state.safetensors", "trainer.json"]


@pytest.fixture
def run(tiny: Callable[..., TrainConfig]) -> Path:
    """A finished run with three checkpoints, of steps 4, 8 and 12, that carries its state."""
    return train(tiny(initial_state="carried", keep=3), progress=False).folder


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def test_a_checkpoint_is_complete_and_the_newest_are_kept(run: Path, tiny: Callable[..., TrainConfig]) -> None:
    assert (run / "latest").read_text() == "step-00000012\n"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "step-00000004",
        "step-00000008",
        "step-00000012",
    ]
    for step in (4, 8, 12):
        assert sorted(path.name for path in step_folder(run, step).iterdir()) == FILES
        assert read_checkpoint(step_folder(run, step)).position.step == step
    fewer = train(tiny(out=run.parent / "fewer", keep=1), progress=False).folder
    assert [path.name for path in (fewer / "checkpoints").iterdir()] == ["step-00000012"]


def test_a_model_is_loaded_from_a_run_or_a_checkpoint(run: Path, tmp_path: Path) -> None:
    tokens = torch.randint(0, 257, (2, 9))
    newest, earlier = load_model(run), load_model(step_folder(run, 4))
    assert not newest.training
    moved = tmp_path / "moved"
    shutil.copytree(step_folder(run, 12), moved)  # a checkpoint stands on its own
    with torch.no_grad():
        logits = newest(tokens)[0]
        assert torch.equal(load_model(step_folder(run, 12))(tokens)[0], logits)
        assert torch.equal(load_model(moved)(tokens)[0], logits)
        assert not torch.equal(earlier(tokens)[0], logits)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_damage_is_found_and_the_checkpoint_before_is_used(run: Path, name: str, damage: str) -> None:
    path = step_folder(run, 12) / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    if name == "trainer.json" and damage == "changed":
        return  # a digit of a duration may differ and nobody can tell; its other files are checked below

    with pytest.raises(RunError, match=re.escape(f"the checkpoint {step_folder(run, 12)} cannot be used")):
        read_checkpoint(step_folder(run, 12))
    with pytest.raises(RunError, match="cannot be used"):
        load_model(step_folder(run, 12))
    notes: list[str] = []
    found = newest_checkpoint(run, note=notes.append)
    assert found is not None
    assert found.position.step == 8
    assert len(notes) == 1
    assert name in notes[0]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run: Path) -> None:
    for step in (4, 8, 12):
        os.truncate(step_folder(run, step) / "model.safetensors", 10)
    with pytest.raises(RunError, match=r"none of the checkpoints in .* can be used; the last problem: .* has 10 bytes"):
        find_checkpoint(run, note=lambda text: None)


def test_load_model_tells_of_what_it_passed_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(step_folder(run, 12) / "optimizer.pt", 10)
    load_model(run)
    error = capsys.readouterr().err
    assert error.startswith("note: the checkpoint ")
    assert "optimizer.pt has 10 bytes where" in error


def test_a_checkpoint_newer_than_latest_does_not_count(run: Path) -> None:
    (run / "latest").write_text("step-00000008\n")
    assert find_checkpoint(run).position.step == 8
    (run / "latest").write_text("garbage")  # without a pointer the newest good one is it
    assert find_checkpoint(run).position.step == 12


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=re.escape(f"there is no checkpoint in {tmp_path}. Give the folder of a run")):
        load_model(tmp_path)


def test_weights_of_another_version_are_refused(run: Path, tiny: Callable[..., TrainConfig]) -> None:
    """A declaration whose model has other weights now: here, one more layer."""
    path = step_folder(run, 12) / "model.json"
    changed = path.read_text().replace('"depth": 1', '"depth": 2').replace('"depth":1', '"depth":2')
    path.write_text(changed)
    record = json.loads((step_folder(run, 12) / "trainer.json").read_text())
    content = changed.encode()
    record["files"]["model.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step_folder(run, 12) / "trainer.json").write_text(json.dumps(record))
    with pytest.raises(
        RunError, match=r"are not those of its model as this version of mnemos .* builds it: Missing key"
    ):
        load_model(run)


def test_a_full_disk_keeps_the_older_checkpoints(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"checkpoint of step 8 could not be written to .*No space left on device"):
        train(tiny(), progress=False)
    run = tiny().out
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    assert train(tiny(), progress=False).finished
