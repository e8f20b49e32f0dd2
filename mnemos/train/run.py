"""The folder of a run: whose it is, what has been measured, and that only one process trains in it.

RUN/config.json         the configuration
RUN/environment.json    Python, PyTorch, processor and threads of the first start
RUN/metrics.jsonl       one line per step and per evaluation, in order, each once
RUN/checkpoints/        see checkpoint.py
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mnemos.errors import RunError
from mnemos.train.config import TrainConfig
from mnemos.train.files import replace_text

CONFIG, ENVIRONMENT, METRICS, LOCK = "config.json", "environment.json", "metrics.jsonl", ".lock"


def read_config(run: Path) -> TrainConfig | None:
    """The configuration of the run in this folder, or None where there is no run. Raises RunError if it is
    unfit.
    """
    path = run / CONFIG
    if not path.is_file():
        return None
    return TrainConfig.from_json(path.read_text(encoding="utf-8"), str(path))


def config_of(checkpoint: Path) -> TrainConfig:
    """The configuration of the run that a checkpoint's folder lies in; raises RunError if it lies alone."""
    run = checkpoint.parent.parent
    config = read_config(run)
    if config is None:
        raise RunError(
            f"the checkpoint {checkpoint} lies outside its run: there is no {run / 'config.json'}, which says what "
            "it was trained on and at what length. Put it back, or give the run's folder."
        )
    return config


def refuse_other_run(config: TrainConfig) -> None:
    """Raises RunError if the configured folder holds another run, or anything else but a run."""
    run = config.out
    if run.exists() and not run.is_dir():
        raise RunError(f"--out {run} is a file. Give a folder, new or of a run to go on with.")
    existing = read_config(run)
    if existing is None:
        others = sorted(p.name for p in run.iterdir() if not p.name.startswith(".")) if run.is_dir() else []
        if others:
            raise RunError(
                f"--out {run} holds other files "
                f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}) and no run. Give a new "
                "folder."
            )
        return
    differences = existing.differences(config)
    if differences:
        raise RunError(
            f"{run} holds a run with another configuration (there, here): {'; '.join(differences)}. "
            "Give the same values to go on with it, or another --out for a new run."
        )


def start_run(config: TrainConfig) -> None:
    """Make the folder and write down configuration and environment, unless they are there."""
    run = config.out
    if not (run / CONFIG).is_file():
        replace_text(run / CONFIG, config.to_json() + "\n")
    if not (run / ENVIRONMENT).is_file():
        replace_text(run / ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")


@contextmanager
def only_process(run: Path) -> Iterator[None]:
    """While this holds, no other process trains in the folder. Raises RunError if one does already.

    The lock is the operating system's, so it is gone with its process, however that ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / LOCK, "w")  # noqa: SIM115 (its errors are not those of the block below)
    except OSError as error:
        raise RunError(f"--out {run} cannot be written to: {error.strerror}. Give another folder.") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process is training in {run}. Stop it first, or give another --out.") from error
        yield


class Metrics:
    """The measurements of a run, appended to its `metrics.jsonl` as they come."""

    def __init__(self, run: Path, step: int):
        """Go on after `step`: what an interrupted process had written beyond it is taken out."""
        path = run / METRICS
        kept = [json.dumps(record) + "\n" for record in read_metrics(run) if record["step"] <= step]
        replace_text(path, "".join(kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)

    def write(self, kind: str, **facts: Any) -> None:
        """Append one record."""
        self._file.write(json.dumps({"kind": kind, **facts}) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all records are on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """No more records."""
        self._file.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run's `metrics.jsonl`, up to the first line that a killed process left unfinished.

    Records of kind "train" have step, loss (nats per token), bits_per_byte, rate, gradient_norm, tokens (so
    far), tokens_per_second and seconds (so far); those of kind "evaluate" step, loss, bits_per_byte and
    tokens.
    """
    path = run / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
