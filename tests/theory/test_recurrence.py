"""Compiled code for matrix memories: as wide as it says, in threads, differentiated twice, and where there is none."""

from __future__ import annotations

import ctypes
import itertools
import stat
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.execute import Recurrence, Request, native, recurrence
from mnemos.lowering import lower, run_rows
from mnemos.memory import DPLR, Controls

NAME = "compiled recurrence"
COMPILED = native.library("recurrence", "double")
needs_compiler = pytest.mark.skipif(isinstance(COMPILED, str), reason=str(COMPILED))

GATED_DELTA = mn.zoo.gated_deltanet().memory
PER_CHANNEL = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="channel"), mn.GD())
HEBBIAN = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD(rate=0.7), read_timing="before")
REMOVAL = mn.Memory(mn.Matrix(), mn.Dot(), DPLR(), mn.GD())
RULES = {
    "gated delta": GATED_DELTA,
    "per channel": PER_CHANNEL,
    "hebbian": HEBBIAN,
    "removal": REMOVAL,
    "removal, read before": REMOVAL.replace(read_timing="before", learner=mn.GD(rate=0.7)),
}
CHUNKS = {"gated delta": "triangular delta", "per channel": "triangular delta", "hebbian": "cumulative decay"}
each_rule = pytest.mark.parametrize("rule", RULES)
REQUEST = Request(1, 64, 2, 8, 8, torch.float32, "cpu", True)


class Case:
    """Inputs and a start for a memory, and what any plan makes of them: outputs, last weight, all gradients."""

    def __init__(self, memory: mn.Memory, time: int, key: int, value: int, dtype: torch.dtype, batch: int = 2) -> None:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, dtype=torch.float64)

        shape = (batch, time, 3)
        self.memory = memory
        q, k = (F.normalize(uniform(*shape, key) - 0.5, dim=-1) for _ in range(2))
        self.inputs = [x.to(dtype).requires_grad_() for x in (q, k, uniform(*shape, value) - 0.5)]
        made = {"rate": uniform(*shape), "decay": 0.8 + 0.2 * uniform(*shape)}
        if memory.retention.scaling != "head":
            made["decay"] = 0.8 + 0.2 * uniform(*shape, key)
            made["removal"] = F.normalize(uniform(*shape, key) - 0.5, dim=-1)
            made["replacement"] = made["removal"] * uniform(*shape, key)  # a transition that does not grow
        self.controls: Controls = {c.name: made[c.name].to(dtype).requires_grad_() for c in memory.controls}
        self.start = (uniform(batch, 3, value, key) - 0.5).to(dtype).requires_grad_()

    def given(self) -> tuple[Any, ...]:
        """What `run_rows` takes before lengths and plan."""
        q, k, v = self.inputs
        state = self.memory.init(q.shape[0], 3, q.shape[-1], v.shape[-1], dtype=self.start.dtype)
        return self.memory, q, k, v, self.controls, state.successor(matrix=self.start)

    def run(self, plan: str, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, after = run_rows(*self.given(), lengths, plan)
        if lengths is not None:  # what is behind a row's end means nothing
            out = torch.where(torch.arange(out.shape[1])[:, None, None] < lengths[:, None, None, None], out, 0.0)
        return out, after["matrix"]

    def leaves(self) -> list[Tensor]:
        return [*self.inputs, *self.controls.values(), self.start]

    def all_of(self, plan: str, lengths: Tensor | None = None) -> list[Tensor]:
        out, end = self.run(plan, lengths)
        loss = (out * out.cos()).sum() + end.square().sum()
        return [out, end, *torch.autograd.grad(loss, self.leaves())]


def assert_same(found: list[Tensor], expected: list[Tensor], within: float) -> None:
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=within, atol=within)


@needs_compiler
@each_rule
@pytest.mark.parametrize("key", [1, 8, 9, 24, 64, 65, 128])
@pytest.mark.parametrize("value", [1, 70])
def test_any_width(rule: str, key: int, value: int) -> None:
    """Lines that are full and lines that are not, more rows than are in work at a time, and fewer than four."""
    case = Case(RULES[rule], 9, key, value, torch.float64)
    assert_same(case.all_of(NAME), case.all_of("loop"), 1e-12)


@needs_compiler
@each_rule
@pytest.mark.parametrize("key", [15, 16, 48, 96, 256])
def test_single_precision(rule: str, key: int) -> None:
    case = Case(RULES[rule], 40, key, 20, torch.float32)
    assert_same(case.all_of(NAME), case.all_of("loop"), 2e-5)


@needs_compiler
@each_rule
@pytest.mark.parametrize("time", [recurrence.EVERY - 1, recurrence.EVERY, 2 * recurrence.EVERY + 3])
def test_weights_are_kept_often_enough(rule: str, time: int) -> None:
    """Lengths around the tokens between kept weights; rows that end early, one of them with no token at all."""
    case = Case(RULES[rule], time, 5, 6, torch.float64, batch=4)
    chunks = CHUNKS.get(rule, "triangular removal")
    lengths = torch.tensor([time, min(time, recurrence.EVERY), 1, 0])
    assert_same(case.all_of(NAME), case.all_of(chunks), 1e-11)
    assert_same(case.all_of(NAME, lengths), case.all_of(chunks, lengths), 1e-11)


@needs_compiler
@each_rule
def test_second_derivatives(rule: str) -> None:
    """They go by PyTorch's operations, whatever made the outputs."""
    case, found = Case(RULES[rule], 12, 4, 3, torch.float64), []
    for plan in (NAME, "loop"):
        out, end = case.run(plan)
        first = torch.autograd.grad((out**3).sum() + (end**3).sum(), case.leaves(), create_graph=True)
        found.append(list(torch.autograd.grad(sum((x**2).sum() for x in first), case.leaves())))
    assert_same(*found, 1e-10)


@needs_compiler
@each_rule
def test_nothing_is_spent_on_gradients_nobody_may_see(rule: str) -> None:
    """A gradient that comes in spread over the outputs (of a sum) is copied and its place taken by the values';
    one that comes in whole is somebody else's and stays as it is. With rows that end early, too."""
    case, lengths = Case(RULES[rule], 9, 4, 6, torch.float64), torch.tensor([9, 4])
    for ends in (None, lengths):
        out, _ = run_rows(*case.given(), ends, NAME)
        whole = torch.ones_like(out)
        spread = torch.autograd.grad(out.sum(), case.leaves(), retain_graph=True)
        for _ in range(2):
            assert_same(list(torch.autograd.grad(out, case.leaves(), whole, retain_graph=True)), list(spread), 1e-14)
        assert bool((whole == 1).all())


@needs_compiler
def test_gradients_of_one_result_or_to_one_input() -> None:
    case = Case(GATED_DELTA, 7, 4, 4, torch.float64)
    for which, leaf in itertools.product((0, 1), case.leaves()):
        both = [
            torch.autograd.grad(case.run(plan)[which].square().sum(), leaf, allow_unused=True)[0]
            for plan in (NAME, "loop")
        ]
        if both[1] is None:  # a query has no part in the last weight
            assert both[0] is None or not both[0].any()
        else:
            torch.testing.assert_close(both[0], both[1], rtol=1e-12, atol=1e-12)


@needs_compiler
@each_rule
def test_threads_change_nothing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(RULES[rule], 80, 9, 7, torch.float32)
    alone = case.all_of(NAME)
    monkeypatch.setattr(recurrence, "ALONE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    asked: list[int] = []

    def noted(kind: str, numbers: tuple[int, ...]) -> array[int]:
        asked.append(numbers[8])
        return array(kind, numbers)

    monkeypatch.setattr(recurrence, "array", noted)
    together = case.all_of(NAME)
    assert asked == [4, 4]
    assert all(torch.equal(x, y) for x, y in zip(together, alone, strict=True))


@needs_compiler
def test_a_cut_changes_nothing() -> None:
    """A recurrence has no chunks: read in pieces, the numbers are the same to the bit."""
    case = Case(GATED_DELTA, 30, 8, 8, torch.float32)
    with torch.no_grad():
        whole, last = case.run(NAME)
        state = GATED_DELTA.init(2, 3, 8, 8).successor(matrix=case.start.detach().clone())
        pieces = []
        for begin, end in itertools.pairwise((0, 1, 13, 14, 30)):
            q, k, v = (x[:, begin:end] for x in case.inputs)
            controls = {name: x[:, begin:end] for name, x in case.controls.items()}
            out, state = run_rows(GATED_DELTA, q, k, v, controls, state, None, NAME)
            pieces.append(out)
    assert torch.equal(torch.cat(pieces, 1), whole) and torch.equal(state["matrix"], last)


@needs_compiler
def test_a_single_token_works_in_place_only_where_no_gradient_is_wanted() -> None:
    case = Case(GATED_DELTA, 1, 64, 64, torch.float32)
    with torch.no_grad():
        state = GATED_DELTA.init(2, 3, 64, 64)
        held = state["matrix"]
        _, after = run_rows(GATED_DELTA, *case.inputs, case.controls, state, None, NAME)
    assert state.spent and after["matrix"] is held
    state = GATED_DELTA.init(2, 3, 64, 64)
    before = state["matrix"].clone()
    run_rows(GATED_DELTA, *case.inputs, case.controls, state, None, NAME)
    assert not state.spent and torch.equal(state["matrix"], before)


@needs_compiler
def test_it_is_chosen_on_the_cpu() -> None:
    assert lower(GATED_DELTA, REQUEST).executor.name == NAME
    assert lower(GATED_DELTA, REQUEST._replace(length=1, training=False)).executor.name == NAME


DECLINED: dict[str, tuple[Any, Request, str]] = {
    "removal with a slope": (REMOVAL.replace(objective=mn.L2()), REQUEST, "only Dot's does not"),
    "removal with momentum": (REMOVAL.replace(learner=mn.GD(momentum=True)), REQUEST, "not one plain step"),
    "a GPU": (GATED_DELTA, REQUEST._replace(device="cuda"), "it is for the CPU"),
    "wide keys": (GATED_DELTA, REQUEST._replace(key_dim=257), "its keys are at most 256 wide"),
    "wide keys, double": (GATED_DELTA, REQUEST._replace(key_dim=129, dtype=torch.float64), "at most 128 wide"),
    "momentum": (GATED_DELTA.replace(learner=mn.GD(momentum=True)), REQUEST, "it has no momentum"),
    "slopes": (mn.Memory(mn.Matrix(), mn.Huber()), REQUEST, "neither constant nor the residual"),
    "networks": (mn.Memory(mn.MLP(), mn.L2()), REQUEST, "the structure is not a single matrix"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_it_declines(case: str) -> None:
    memory, request_, words = DECLINED[case]
    assert words in str(Recurrence().declines(memory, request_))


def test_what_is_being_compiled_by_torch_is_not_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "torch.compile" in str(Recurrence().declines(GATED_DELTA, REQUEST))


# Making the library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user who has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    native._of_this_process.cache_clear()
    yield tmp_path / "mnemos"
    native.library.cache_clear()
    native._of_this_process.cache_clear()


def compiler(folder: Path, script: str) -> Path:
    """A folder with a compiler that does what the script says."""
    folder.mkdir()
    made = folder / "c++"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return folder


def test_without_a_compiler_pytorch_does_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    plan = lower(GATED_DELTA, REQUEST)
    assert plan.executor.name == "triangular delta"
    assert "compiled recurrence: it needs a C++ compiler, and none is found" in plan.explain()
    step = lower(GATED_DELTA, REQUEST._replace(length=1, training=False))
    assert step.executor.name == "matrix step"


def test_a_compiler_that_fails_is_quoted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to name the processor is tried first, and nothing is left behind."""
    calls = tmp_path / "calls"
    folder = compiler(tmp_path / "bin", f'echo "$@" >> {calls}; echo "x.cpp:1: error: no such thing" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    reason = str(Recurrence().declines(GATED_DELTA, REQUEST))
    assert "cannot compile it: x.cpp:1: error: no such thing" in reason
    assert len(calls.read_text().splitlines()) == len(native.FOR_THIS_PROCESSOR)
    assert list(cache.iterdir()) == []


def test_a_compiler_that_hangs_is_given_up(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PATIENCE", 0.1)
    folder = compiler(tmp_path / "bin", "exec sleep 20")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    assert "did not compile it within 0.1 seconds" in str(Recurrence().declines(GATED_DELTA, REQUEST))
    assert list(cache.iterdir()) == []


def test_what_is_compiled_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once for a processor and a type; another of either makes another library."""
    runs: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        runs.append(command)
        Path(command[-1]).write_bytes(b"made")
        return subprocess.CompletedProcess(command, 0, "", "")

    loaded: list[str] = []
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(native.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(ctypes, "CDLL", lambda path: loaded.append(path) or object())
    for _ in range(2):
        native.library.cache_clear()
        native.library("recurrence", "float")
    assert len(runs) == 1 and loaded[0] == loaded[1]
    assert capfd.readouterr().err.count("compiling recurrence.cpp") == 1
    native.library("recurrence", "double")
    monkeypatch.setattr(native, "_processor", lambda: "another")
    native.library.cache_clear()
    native.library("recurrence", "float")
    assert len(runs) == 3 and len({*loaded}) == 3
    assert sorted(p.name for p in cache.iterdir()) == sorted({Path(p).name for p in loaded})


def test_a_cache_that_is_no_folder_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("not a folder")
    folder = native._cache()
    assert folder != cache and folder.is_dir() and folder == native._cache()
    folder.rmdir()


def test_a_library_that_does_not_load_is_no_disaster(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise OSError("wrong ELF class")

    monkeypatch.setattr(native, "_compile", lambda *_: None)
    monkeypatch.setattr(ctypes, "CDLL", broken)
    monkeypatch.setattr(native.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "cannot be made or loaded: wrong ELF class" in str(native.library("recurrence", "float"))
