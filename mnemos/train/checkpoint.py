"""Checkpoints: one folder each, complete or absent, that carries all a model needs to be used or trained on.

RUN/latest                            the name of the newest checkpoint; moved when that one is safely on disk
RUN/checkpoints/step-00000250/
    model.json, model.safetensors     the model's declaration and its weights
    tokenizer.json                    unless the model reads bytes
    optimizer.pt                      the optimiser's running means
    state.safetensors                 the memory between two steps, where a run carries it on
    trainer.json                      how far the run was; size and SHA-256 of each file above
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import mnemos as mn
from mnemos.errors import RunError
from mnemos.train.files import replace_text, sync
from mnemos.train.tokenizer import Tokenizer, load_tokenizer

CHECKPOINTS, LATEST = "checkpoints", "latest"
MODEL, WEIGHTS, OPTIMIZER, STATE, TRAINER = (
    "model.json",
    "model.safetensors",
    "optimizer.pt",
    "state.safetensors",
    "trainer.json",
)


@dataclass(frozen=True)
class Position:
    """How far a run is: finished steps, tokens read, seconds spent training, and the text it learns from."""

    step: int
    tokens: int
    seconds: float
    corpus_fingerprint: str
    tokenizer_fingerprint: str
    bytes_per_token: float


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    position: Position

    def model(self) -> mn.LanguageModel:
        """The model with its weights, on the CPU, in evaluation mode."""
        return _build_model(self.folder).eval()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return load_tokenizer(self.folder)

    def declaration(self) -> str:
        """The model's declaration, as JSON text."""
        return (self.folder / MODEL).read_text(encoding="utf-8")

    def restore(self, model: mn.LanguageModel, optimizer: torch.optim.Optimizer) -> mn.State | None:
        """Put weights and optimiser back where they were; returns the memory between two steps, if it was
        kept.
        """
        _load_weights(model, self.folder)
        optimizer.load_state_dict(torch.load(self.folder / OPTIMIZER, map_location="cpu", weights_only=True))
        path = self.folder / STATE
        return mn.load_state(path, for_=model) if path.is_file() else None


def write_checkpoint(
    run: Path,
    position: Position,
    model: mn.LanguageModel,
    optimizer: torch.optim.Optimizer,
    state: mn.State | None,
    tokenizer: Tokenizer,
    *,
    keep: int,
) -> Path:
    """Write a checkpoint into the run's folder, then move `latest` to it and remove all but the newest
    `keep`.

    Returns the checkpoint's folder. Raises RunError if the disk does not take it; older checkpoints are then
    kept.
    """
    parent = run / CHECKPOINTS
    final = parent / f"step-{position.step:08d}"
    temporary = parent / f".writing-{final.name}.{os.getpid()}"
    try:
        parent.mkdir(exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        (temporary / MODEL).write_text(model.spec.to_json(), encoding="utf-8")
        weights = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        torch.save(optimizer.state_dict(), temporary / OPTIMIZER)
        tokenizer.save(temporary)
        if state is not None:
            state.save(temporary / STATE)
        files = {path.name: _facts(path) for path in sorted(temporary.iterdir())}
        text = json.dumps({"position": asdict(position), "files": files}, indent=2)
        (temporary / TRAINER).write_text(text, encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            sync(path)
        _remove(final)  # one of a former try that was found damaged
        temporary.rename(final)
        sync(parent)
        replace_text(run / LATEST, final.name + "\n")
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"the checkpoint of step {position.step} could not be written to {parent}: {error}. Older "
            "checkpoints are untouched: mend the cause and start the same command again."
        ) from error
    for old in _folders(run)[keep:]:
        _remove(old)
    return final


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, each of its files checked by size and hash. Raises RunError if one is
    wrong.
    """
    try:
        record = json.loads((folder / TRAINER).read_text(encoding="utf-8"))
        position, files = Position(**record["position"]), dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"the checkpoint {folder} cannot be used: its {TRAINER} is missing or cut short.") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"the checkpoint {folder} cannot be used: its file {name} is missing.")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise RunError(
                f"the checkpoint {folder} cannot be used: {name} has {size} bytes where {expected['bytes']} "
                "were written; it was cut short or changed."
            )
        if _facts(path) != expected:
            raise RunError(f"the checkpoint {folder} cannot be used: the content of {name} was changed or damaged.")
    return Checkpoint(folder, position)


def newest_checkpoint(run: Path, *, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest good checkpoint of a run, or None where it has not written any.

    A damaged one is passed over for the one before it, and `note` is told so. Raises RunError if all are
    damaged.
    """
    damaged: RunError | None = None
    for folder in _folders(run):
        try:
            return read_checkpoint(folder)
        except RunError as error:
            note(str(error))
            damaged = error
    if damaged is not None:
        raise RunError(
            f"none of the checkpoints in {run / CHECKPOINTS} can be used; the last problem: {damaged} "
            "Restore one from a copy, or train into a new folder."
        )
    return None


def find_checkpoint(path: str | os.PathLike[str], *, note: Callable[[str], None] | None = None) -> Checkpoint:
    """The checkpoint that `path` means: a checkpoint's folder, or a run's folder for its newest good one.

    note: is told of damaged checkpoints that were passed over; by default they are printed on the standard
    error. Raises RunError if there is none.
    """
    path = Path(path)
    if (path / TRAINER).is_file() or path.parent.name == CHECKPOINTS:
        return read_checkpoint(path)
    checkpoint = newest_checkpoint(path, note=note or (lambda text: print(f"note: {text}", file=sys.stderr)))
    if checkpoint is None:
        raise RunError(f"there is no checkpoint in {path}. Give the folder of a run, or of one of its checkpoints.")
    return checkpoint


def load_model(path: str | os.PathLike[str]) -> mn.LanguageModel:
    """The trained model in a run's folder (its newest good checkpoint) or in a checkpoint's folder.

    It is on the CPU and in evaluation mode. Raises RunError if there is no checkpoint, or the one given is
    damaged.
    """
    return find_checkpoint(path).model()


def clean_up(run: Path) -> None:
    """Remove what a killed process left half-written in the run's folder."""
    for path in [*run.glob(".*.tmp"), *(run / CHECKPOINTS).glob(".*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _folders(run: Path) -> list[Path]:
    """The checkpoints' folders that count, newest first: none that is newer than what `latest` points to."""
    found = sorted((p for p in (run / CHECKPOINTS).glob("step-*") if p.is_dir()), reverse=True)
    try:
        latest = (run / LATEST).read_text(encoding="utf-8").strip()
    except OSError:
        return found
    names = [p.name for p in found]
    return found[names.index(latest) :] if latest in names else found


def _remove(folder: Path) -> None:
    """Remove a checkpoint in one instant: it is renamed before its files go."""
    if folder.exists():
        going = folder.with_name(f".removing-{folder.name}.{os.getpid()}")
        folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def _facts(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _build_model(folder: Path) -> mn.LanguageModel:
    spec = mn.from_json((folder / MODEL).read_text(encoding="utf-8"))
    if not isinstance(spec, mn.ModelSpec):
        raise RunError(f"{folder / MODEL} declares a {type(spec).__name__}, not a model.")
    model = mn.LanguageModel(spec)
    _load_weights(model, folder)
    return model


def _load_weights(model: mn.LanguageModel, folder: Path) -> None:
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        problem = str(error).splitlines()[1:2] or [str(error)]
        raise RunError(
            f"the weights in {folder} are not those of its model as this version of mnemos "
            f"({mn.__version__}) builds it: {problem[0].strip()} Use the version that wrote them, or train "
            "anew."
        ) from error
