"""A saved state, taken up by a process that has nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mnemos as mn
from mnemos.errors import DataError, RunError
from mnemos.evaluate import save_and_continue


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the processes that are started; they are really started."""
    commands: list[list[str]] = []
    original = subprocess.run

    def watched(command: list[str], **settings: Any) -> Any:
        commands.append(command)
        return original(command, **settings)

    monkeypatch.setattr(subprocess, "run", watched)
    return commands


def test_a_fresh_process_gives_the_same_numbers_to_the_last_bit(run: Path, started: list[list[str]]) -> None:
    tokens = torch.randint(0, 256, (203,))
    found = save_and_continue(run, tokens, piece=37)
    assert found.exact and found.largest_difference == 0.0 and found.loss_unbroken == found.loss_reloaded
    assert (found.tokens_before, found.tokens_after) == (101, 101)
    assert found.state_file_bytes > mn.LanguageModel(mn.zoo.model("linear_attention", width=16, heads=2)).state_bytes()
    assert [command[0] for command in started] == [sys.executable]


def test_a_state_that_lost_something_is_found_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = mn.State.save

    def forgetful(state: mn.State, path: Path) -> Path:
        return save(state.reset(torch.tensor([True])), path)

    monkeypatch.setattr(mn.State, "save", forgetful)
    found = save_and_continue(run, torch.randint(0, 256, (203,)), piece=37)
    assert not found.exact and found.largest_difference > 1e-6


def test_the_message_of_a_process_that_failed_is_passed_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(state: mn.State, path: Path) -> Path:
        path.write_bytes(b"no state")
        return path

    monkeypatch.setattr(mn.State, "save", broken)
    with pytest.raises(RunError, match=r"fresh process .* failed:\n(.|\n)*is not a readable saved state"):
        save_and_continue(run, torch.randint(0, 256, (203,)))


def test_too_few_tokens_are_refused(run: Path) -> None:
    with pytest.raises(DataError, match="at least 4 tokens to cut in two; got 3"):
        save_and_continue(run, torch.tensor([1, 2, 3]))
