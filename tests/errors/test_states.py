"""What is said to someone who uses, saves or loads a state wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, MnemosError, StateError

MEMORY = mn.Memory()


def state(batch: int = 2) -> mn.State:
    return MEMORY.init(batch, 2, 4, 4)


def spent() -> mn.State:
    old = state()
    with torch.no_grad():
        MEMORY.write(old, torch.randn(2, 2, 4), torch.randn(2, 2, 4), {"rate": torch.rand(2, 2)})
    return old


ROWS: list[tuple[Callable[[mn.State], Any], type[MnemosError], str]] = [
    (lambda s: s.select([0]), InvalidType, "select takes a tensor of row indices; got list."),
    (
        lambda s: s.select(torch.tensor([True, False])),
        InvalidType,
        "select takes a vector of int64 row indices; got torch.bool of shape (2,). "
        "For a boolean mask write rows=mask.nonzero().flatten().",
    ),
    (lambda s: s.select(torch.tensor(1)), InvalidType, "got torch.int64 of shape ()."),
    (lambda s: s.select(torch.tensor([0, 2])), InvalidValue, "select: row indices must lie in [0, 2); got [0, 2]."),
    (lambda s: s.select(torch.tensor([-1])), InvalidValue, "select: row indices must lie in [0, 2); got [-1]."),
    (lambda s: s.reset([True]), InvalidType, "reset takes a boolean tensor, one entry a row; got list."),
    (lambda s: s.reset(torch.ones(2)), InvalidType, "reset takes a boolean mask, one entry a row; got torch.float32."),
    (
        lambda s: s.reset(torch.ones(3, dtype=torch.bool)),
        InvalidValue,
        "reset: this state has 2 rows; the mask has shape (3,).",
    ),
]


@pytest.mark.parametrize(("use", "kind", "message"), ROWS, ids=range(len(ROWS)))
def test_rows(use: Callable[[mn.State], Any], kind: type[MnemosError], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        use(state())
    assert type(caught.value) is kind


USES: dict[str, Callable[[mn.State], Any]] = {
    "getitem": lambda s: s["matrix"],
    "tensors": lambda s: list(s.tensors()),
    "nbytes": lambda s: s.nbytes,
    "batch": lambda s: s.batch,
    "clone": lambda s: s.clone(),
    "detach": lambda s: s.detach(),
    "to": lambda s: s.to("cpu"),
    "select": lambda s: s.select(torch.tensor([0])),
    "reset": lambda s: s.reset(torch.tensor([True, False])),
    "expand": lambda s: s.expand(2),
    "write": lambda s: MEMORY.write(s, torch.randn(2, 2, 4), torch.randn(2, 2, 4), {"rate": torch.rand(2, 2)}),
    "read": lambda s: MEMORY.read(s, torch.randn(2, 2, 4)),
    "run": lambda s: mn.run(MEMORY, *[torch.randn(2, 3, 2, 4)] * 3, {"rate": torch.rand(2, 3, 2)}, state=s),
}


@pytest.mark.parametrize("use", USES)
def test_a_spent_state_is_refused_everywhere(use: str) -> None:
    with pytest.raises(StateError, match=r"already moved on.*call state\.clone\(\) before the step to branch\."):
        USES[use](spent())


def test_a_spent_state_can_be_looked_at_and_is_not_saved(tmp_path: Path) -> None:
    assert repr(spent()) == "State(spent)"
    with pytest.raises(StateError, match="already moved on"):
        spent().save(tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_states(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(StateError, match=re.escape(f"there is no saved state at {path}.")):
        mn.load_state(path)
    with pytest.raises(StateError, match="there is no saved state at"):
        mn.load_state(tmp_path)
    for content in (b"", b"not a state at all", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(StateError, match=r"is not a readable saved state \(cut short or of another kind\): "):
            mn.load_state(path)
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(
        StateError, match=r"is a safetensors file but no saved state \(no 'mnemos-state-1' mark in it\)\."
    ):
        mn.load_state(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_files_cut_short(tmp_path: Path, kept: float) -> None:
    path = state().save(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(StateError, match="is not a readable saved state"):
        mn.load_state(path)


def test_foreign_states(tmp_path: Path) -> None:
    path = state().save(tmp_path / "x.safetensors")
    with pytest.raises(
        StateError,
        match=re.escape('this state belongs to another memory: it was made with memory={"kind": "Memory"}'),
    ):
        mn.load_state(path, for_=mn.zoo.gla().memory)
    with pytest.raises(StateError, match="this state belongs to another memory"):
        mn.load_state(path, for_=mn.KVMemory())
    layer = mn.MemoryLayer(MEMORY, width=8, heads=2)
    with pytest.raises(StateError, match="MemoryLayer: this state belongs to another owner"):
        mn.load_state(path, for_=layer)
    model = mn.LanguageModel(mn.ModelSpec(pattern=(MEMORY,), width=8, depth=1, heads=2, vocabulary=5))
    with pytest.raises(StateError, match="LanguageModel: this state belongs to another owner"):
        mn.load_state(path, for_=model)
    model.init_state(2).save(path)
    other = mn.LanguageModel(model.spec.replace(depth=2))
    with pytest.raises(StateError, match="LanguageModel: this state belongs to another owner"):
        mn.load_state(path, for_=other)
    assert mn.load_state(path, for_=model).batch == 2


def test_folders_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot write the state to .*nowhere"):
        state().save(tmp_path / "nowhere" / "x.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = state().save(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("mnemos.state.disk.os.replace", full)
    with pytest.raises(StateError, match=r"cannot write the state to .*no space left on device"):
        state(3).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
