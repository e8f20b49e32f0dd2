from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training import measured, some_text

import mnemos as mn
from mnemos.errors import DataError, InvalidType, InvalidValue, MnemosError, RunError
from mnemos.layers import CentroidAffinity
from mnemos.train import Optimiser, TrainConfig, find_checkpoint, load_model, loop, read_metrics, train
from mnemos.train.loop import Trainer, _settled, make_optimizer
from mnemos.train.run import only_process

Tiny = Callable[..., TrainConfig]


class PowerCut(BaseException):
    """Ends a run where it stands, as a kill would: nothing tidies up."""


def cut_power(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """Let the run end after this many calls of a method of Trainer."""
    calls, method = 0, getattr(Trainer, name)

    def cut(self: Trainer, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise PowerCut
        return method(self, *arguments)

    monkeypatch.setattr(Trainer, name, cut)


def test_a_run_measures_every_step_and_learns(tiny: Tiny) -> None:
    run = train(tiny(steps=60, optimiser=Optimiser(warmup=4, rate=1e-2)), progress=False)
    records = read_metrics(run.folder)
    steps = [record for record in records if record["kind"] == "train"]
    evaluations = [record for record in records if record["kind"] == "evaluate"]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert [record["step"] for record in evaluations] == list(range(5, 61, 5))
    assert [record["tokens"] for record in steps] == [32 * step for step in range(1, 61)]
    assert steps[0]["loss"] > 5
    assert evaluations[-1]["loss"] < 3.5
    assert (run.finished, run.step, run.loss) == (True, 60, evaluations[-1]["loss"])
    assert run.bits_per_byte == pytest.approx(evaluations[-1]["loss"] / 0.6931, rel=1e-3)
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == 1
    assert TrainConfig.from_json((run.folder / "config.json").read_text()).system == "linear_attention"


def test_centroids_follow_once_a_step_and_are_kept(tiny: Tiny) -> None:
    """Each step of 32 tokens moves the average number of tokens of a head by a thousandth; evaluation moves nothing."""
    run = train(tiny(system="routing_transformer", depth=2, steps=5), progress=False)
    (module,) = (m for m in load_model(run.folder).modules() if isinstance(m, CentroidAffinity))
    left = 0.999**5
    expected = torch.full((2,), left * module.number.shape[1] + (1 - left) * 32)
    assert torch.allclose(module.number.sum(-1), expected)


def test_the_same_seed_gives_the_same_numbers(tiny: Tiny, tmp_path: Path) -> None:
    runs = [train(tiny(out=tmp_path / name, seed=s), progress=False) for name, s in [("a", 1), ("b", 1), ("c", 2)]]
    a, b, c = (measured(read_metrics(run.folder)) for run in runs)
    assert a == b
    assert all(x["loss"] != y["loss"] for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("options", [{}, {"initial_state": "carried"}, {"documents": "separate", "threads": 2}])
@pytest.mark.parametrize(("where", "after"), [("train_step", 3), ("train_step", 9), ("evaluate", 1), ("save", 2)])
def test_a_run_that_was_cut_off_goes_on_as_if_it_was_not(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any], where: str, after: int
) -> None:
    whole = train(tiny(out=tmp_path / "whole", **options), progress=False).folder
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch, where, after)
        with pytest.raises(PowerCut):
            train(tiny(**options), progress=False)
    broken = tiny().out
    with open(broken / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # a line that was being written
    assert train(tiny(**options), progress=False).finished
    assert measured(read_metrics(broken)) == measured(read_metrics(whole))
    for name, tensor in load_model(whole).state_dict().items():
        assert torch.equal(load_model(broken).state_dict()[name], tensor), name


def test_resuming_passes_over_a_checkpoint_that_was_cut_short(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tiny(out=tmp_path / "whole"), progress=False).folder
    run = train(tiny(), progress=False).folder
    os.truncate(run / "checkpoints" / "step-00000012" / "model.safetensors", 100)
    (run / "checkpoints" / ".writing-step-00000012.1").mkdir()  # half-written
    capsys.readouterr()
    assert train(tiny(), progress=True).finished
    error = capsys.readouterr().err
    assert "model.safetensors has 100 bytes where" in error
    assert f"going on with {run} after step 8" in error
    assert measured(read_metrics(run)) == measured(read_metrics(whole))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_a_finished_run_says_so_and_does_nothing(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(tiny(), progress=False)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.name != ".lock"}
    capsys.readouterr()
    assert train(tiny()) == first
    assert "is finished, at step 12; a longer one needs another --out" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*") if path.name != ".lock"} == before


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_another_configuration_or_other_files_are_refused_untouched(tiny: Tiny, tmp_path: Path) -> None:
    run = train(tiny(), progress=False).folder
    before = tree(run)
    with pytest.raises(
        RunError, match=r"holds a run with another configuration \(there, here\): width: 16, 8; seed: 0"
    ):
        train(tiny(width=8, seed=3), progress=False)
    assert tree(run) == before

    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "picture.jpg").write_bytes(b"sun")
    with pytest.raises(RunError, match=r"holiday holds other files \(picture.jpg\) and no run. Give a new folder."):
        train(tiny(out=holiday), progress=False)
    with pytest.raises(RunError, match=r"picture.jpg is a file\. Give a folder"):
        train(tiny(out=holiday / "picture.jpg"), progress=False)
    with pytest.raises(RunError, match=r"cannot be written to: Not a directory"):
        train(tiny(out=holiday / "picture.jpg" / "run"), progress=False)
    assert [path.name for path in holiday.iterdir()] == ["picture.jpg"]


def test_nothing_is_written_before_all_is_checked(tiny: Tiny, tmp_path: Path) -> None:
    late = tmp_path / "late.json"
    late.write_text(mn.ModelSpec((mn.zoo.attendre(8, delay=4),), width=16, depth=1, heads=2).to_json())
    cases: list[tuple[dict[str, Any], type[MnemosError], str]] = [
        ({"data": str(tmp_path / "nowhere.txt")}, DataError, "there is no data at"),
        ({"length": 100_000}, DataError, "a window of 100000 tokens and the one after it need 100001"),
        ({"system": "linear_atention"}, InvalidValue, "linear_atention"),
        ({"tokenizer": "letters"}, DataError, "there is no tokenizer at letters"),
        ({"system": str(late), "width": None, "depth": None, "heads": None}, InvalidValue, "answers 4 tokens late"),
    ]
    if not torch.cuda.is_available():
        cases.append(({"device": "cuda"}, InvalidValue, "PyTorch finds no CUDA device"))
    for change, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            train(tiny(**change), progress=False)
        assert not tiny().out.exists()


def test_changed_text_is_refused_on_resuming(tiny: Tiny, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch, "train_step", 6)
        with pytest.raises(PowerCut):
            train(tiny(), progress=False)
    text_file.write_text(some_text(1500, seed=1), encoding="utf-8")
    before = tree(tiny().out)
    with pytest.raises(RunError, match=r"is not what the run in .* began with: the files were changed"):
        train(tiny(), progress=False)
    assert tree(tiny().out) == before


def test_a_run_that_goes_astray_is_stopped(tiny: Tiny) -> None:
    config = tiny(optimiser=Optimiser(rate=1e30, warmup=0), checkpoint_every=1)
    with pytest.raises(
        RunError, match=r"the (loss|norm of the gradient) became (nan|inf) in step 2, so .*step-00000001 is kept"
    ):
        train(config, progress=False)
    assert [record["step"] for record in read_metrics(config.out)] == [1]
    with pytest.raises(RunError, match="there was no checkpoint yet"):
        train(tiny(optimiser=config.optimiser, out=config.out.parent / "other"), progress=False)


@pytest.mark.parametrize("what", ["loss", "norm of the gradient"])
def test_what_is_not_finite_is_named(tiny: Tiny, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = iter([1.0, 1.0, float("inf")])
    if what == "loss":
        loss = Trainer.loss

        def grown(self: Trainer, *arguments: Any) -> Any:
            value, state = loss(self, *arguments)
            return value * next(factors), state

        monkeypatch.setattr(Trainer, "loss", grown)
    else:
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: torch.tensor(next(factors)))
    with pytest.raises(RunError, match=f"the {what} became inf in step 3, so the run was stopped"):
        train(tiny(), progress=False)
    assert [record["step"] for record in read_metrics(tiny().out)] == [1, 2]


def test_a_state_that_is_carried_on_is_laid_out_as_if_read_from_disk() -> None:
    """Matrix products round by layout and alignment, so a resumed run would drift from an unbroken one."""
    base = torch.randn(3, 5, 4, requires_grad=True)
    inner = mn.State((), {"b": base[1:]}, {"b": base[:1, 1:]})
    state = _settled(mn.State((), {"a": base.transpose(1, 2), "inner": inner}, {"a": base[:1]}))
    for tensor in [*(t for _, t in state.tensors()), state.fresh["a"], state.child("inner").fresh["b"]]:
        assert tensor.is_contiguous() and tensor.storage_offset() == 0 and not tensor.requires_grad
        assert tensor.data_ptr() % 64 == 0
    assert torch.equal(state["a"], base.transpose(1, 2))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A clock for the trainer that goes on by a hundredth of a second whenever it is looked at."""
    now = 100.0

    def look() -> float:
        nonlocal now
        now += 0.01
        return now

    monkeypatch.setattr(loop, "perf_counter", look)
    return look


def test_a_run_by_minutes_ends_with_evaluation_and_checkpoint(tiny: Tiny, clock: Callable[[], float]) -> None:
    config = tiny(steps=None, minutes=0.02)
    began = clock()
    run = train(config, progress=False)
    assert run.finished
    assert 1.2 <= clock() - began < 1.4
    records = read_metrics(run.folder)
    rates = [record["rate"] for record in records if record["kind"] == "train"]
    assert records[-1]["kind"] == "evaluate"
    assert records[-1]["step"] == run.step
    assert rates[-1] < 0.2 * max(rates)
    assert train(config, progress=False).step == run.step


@pytest.mark.usefixtures("clock")
def test_the_clock_of_a_run_by_minutes_goes_on_after_a_break(tiny: Tiny) -> None:
    config = tiny(steps=None, minutes=0.02)
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch, "train_step", 20)
        with pytest.raises(PowerCut):
            train(config, progress=False)
    train(config, progress=False)
    seconds = [record["seconds"] for record in read_metrics(config.out) if record["kind"] == "train"]
    assert seconds == sorted(seconds)
    assert 1.2 <= seconds[-1] < 1.3


def test_scalars_biases_and_norms_are_not_decayed(tiny: Tiny) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    model.register_parameter("scale", torch.nn.Parameter(torch.ones(1)))
    groups = make_optimizer(model, Optimiser(weight_decay=0.3)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "scale": 0.0,
        "0.weight": 0.3,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_two_processes_do_not_share_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    with only_process(tiny().out), pytest.raises(RunError, match="another process is training in"):
        train(tiny(), progress=False)
    assert train(tiny(), progress=False).finished


def test_training_leaves_the_callers_random_numbers_and_threads_alone(tiny: Tiny) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    train(tiny(threads=threads + 1, steps=2), progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_bfloat16_learns_too_and_keeps_float32_weights(tiny: Tiny) -> None:
    run = train(tiny(steps=40, dtype="bfloat16", optimiser=Optimiser(warmup=4, rate=1e-2)), progress=False)
    assert run.loss is not None
    assert run.loss < 4
    assert {p.dtype for p in load_model(run.folder).parameters()} == {torch.float32}


def test_subwords_are_trained_on_and_measured_in_bits_per_byte(
    tiny: Tiny, text_file: Path, subword_file: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "words.json"
    moved.write_bytes(subword_file.read_bytes())
    run = train(tiny(tokenizer=str(moved)), progress=False)
    moved.unlink()  # a checkpoint keeps its own
    tokenizer = find_checkpoint(run.folder).tokenizer()
    text = text_file.read_text(encoding="utf-8")
    tokens = len(tokenizer.encode(text)) + 1
    assert load_model(run.folder).spec.vocabulary == tokenizer.vocabulary
    assert run.loss is not None
    assert run.bits_per_byte == pytest.approx(run.loss / math.log(2) * tokens / len(text.encode()))


SPEC = """
import mnemos as mn
spec = mn.ModelSpec(pattern=(mn.zoo.linear_attention(),), width=8, depth=2, heads=1, vocabulary=257)
"""


def test_a_model_may_be_declared_in_a_file(tiny: Tiny, tmp_path: Path) -> None:
    python = tmp_path / "mine.py"
    python.write_text(SPEC)
    sizes: dict[str, Any] = {"width": None, "depth": None, "heads": None}
    a = train(tiny(system=str(python), out=tmp_path / "a", **sizes), progress=False).folder
    assert (load_model(a).spec.width, load_model(a).spec.depth) == (8, 2)

    written = tmp_path / "mine.json"
    written.write_text(load_model(a).spec.to_json())
    b = train(tiny(system=str(written), out=tmp_path / "b", **sizes), progress=False).folder
    assert measured(read_metrics(a)) == measured(read_metrics(b))

    layer = tmp_path / "layer.py"
    layer.write_text("import mnemos as mn\nspec = mn.zoo.linear_attention()\n")
    c = train(tiny(system=str(layer), out=tmp_path / "c"), progress=False).folder
    assert load_model(c).spec == mn.zoo.model("linear_attention", width=16, depth=1, heads=2, vocabulary=257)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            SPEC,
            {},
            "declares a whole model, with its own sizes, but --width 16, --depth 1, --heads 2 was given",
        ),
        (
            SPEC.replace("257", "99"),
            {"width": None, "depth": None, "heads": None},
            "declares a vocabulary of 99, but",
        ),
        ("x = 1", {}, "defines no `spec`. Write `spec = mn.ModelSpec(...)` in it."),
        ("1 / 0", {}, "failed with ZeroDivisionError: division by zero"),
    ],
)
def test_model_files_that_do_not_fit(
    tiny: Tiny, tmp_path: Path, text: str, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises((InvalidValue, InvalidType, DataError), match=re.escape(message)):
        train(tiny(system=str(path), **changes), progress=False)
    with pytest.raises(DataError, match=r"gone.py cannot be read: No such file"):
        train(tiny(system=str(tmp_path / "gone.py")), progress=False)


def test_a_changed_model_file_is_refused_on_resuming(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SPEC)
    config = tiny(system=str(path), width=None, depth=None, heads=None)
    train(config, progress=False)
    path.write_text(SPEC.replace("depth=2", "depth=1"))
    with pytest.raises(RunError, match="declares another model than the one that the run in"):
        train(config, progress=False)


# What follows really ends other processes.


@pytest.fixture
def start(tiny: Tiny, cache: Path) -> Iterator[Callable[[TrainConfig], subprocess.Popen[str]]]:
    """Start `mnemos train` with a configuration in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def begin(config: TrainConfig) -> subprocess.Popen[str]:
        options = {
            "system": config.system, "data": config.data, "out": config.out, "steps": config.steps,
            "width": config.width, "depth": config.depth, "heads": config.heads, "length": config.length,
            "batch": config.batch, "threads": config.threads, "device": config.device,
            "evaluate-every": config.evaluate_every, "evaluate-tokens": config.evaluate_tokens,
            "checkpoint-every": config.checkpoint_every, "warmup": config.optimiser.warmup,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "mnemos.cli", "train", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        records = read_metrics(run)
        if records and records[-1]["step"] >= step:
            return
        if process.poll() is not None:
            raise AssertionError(f"ended too early: {process.communicate()}")
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


def test_a_killed_process_started_again_gives_the_curve_of_an_unbroken_run(
    tiny: Tiny, tmp_path: Path, start: Callable[[TrainConfig], subprocess.Popen[str]]
) -> None:
    config = tiny(steps=150, checkpoint_every=20, evaluate_every=30)
    process = start(config)
    wait_for_step(config.out, 53, process)
    time.sleep(time.time() % 0.05)  # at no particular moment
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = [record["step"] for record in read_metrics(config.out)][-1]
    assert 53 <= reached < 150

    output, error = start(config).communicate(timeout=120)
    assert re.search(r"going on with \S+ after step \d+0\n", error)
    assert "150 steps" in output
    whole = train(tiny(steps=150, checkpoint_every=20, evaluate_every=30, out=tmp_path / "whole"), progress=False)
    assert measured(read_metrics(config.out)) == measured(read_metrics(whole.folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_asked_to_end_writes_a_checkpoint_first(
    tiny: Tiny, start: Callable[[TrainConfig], subprocess.Popen[str]], number: int
) -> None:
    config = tiny(steps=100_000, checkpoint_every=50_000, evaluate_every=50_000)
    process = start(config)
    wait_for_step(config.out, 10, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0
    step = [record["step"] for record in read_metrics(config.out)][-1]
    assert f"interrupted after step {step}; the same command goes on from there" in error
    assert (config.out / "latest").read_text() == f"step-{step:08d}\n"
    assert "Traceback" not in error
