"""`mnemos harness`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnemos.errors import InvalidValue, RunError
from mnemos.train.files import replace_text


def command(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    tasks: tuple[str, ...],
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
    batch: int = 16,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    overwrite: bool = False,
) -> None:
    """Score a trained model by lm-evaluation-harness, on its tasks or on your own.

    A context is read once for all its answers, and nothing is cut, however long. Needs pip install "mnemos[eval]". A
    task of your own is a YAML file of the harness; with its data in a local file, no network is needed.

    For example:

      mnemos harness runs/first --tasks my_task --include my-tasks/

      mnemos harness runs/first --tasks lambada_openai wikitext --limit 200 --json scores.json

    Args:
        checkpoint: The folder of a run, for its newest checkpoint, or of one checkpoint inside it.
        tasks: Names of tasks or of groups of tasks.
        include: A folder with YAML files of further tasks.
        shots: Solved examples before each question; what each task says if not given.
        limit: Questions of each task at most.
        batch: Texts read together.
        device: Where to compute; auto is a CUDA device if there is one.
        json_file: Also write all results to this file.
        overwrite: Let --json replace an existing file.
    """
    if json_file is not None and json_file.exists() and not overwrite:
        raise RunError(f"--json {json_file} exists already. Give another name, or --overwrite to replace it.")
    if include is not None and not include.is_dir():
        raise RunError(f"--include {include}: there is no such folder. Give one with YAML files of tasks.")
    for name, value, least in (("shots", shots, 0), ("limit", limit, 1)):
        if value is not None and value < least:
            raise InvalidValue(f"--{name} must be at least {least}; got {value}.")
    from mnemos.evaluate.harness import HarnessModel, evaluate, table  # slow to import, and an extra

    model = HarnessModel(checkpoint, batch_size=batch, device=device)
    found = evaluate(model, tasks, include=include, shots=shots, limit=limit)
    print(table(found))
    if json_file is not None:
        replace_text(json_file, json.dumps(found, indent=2, default=str) + "\n")
        print(f"written to {json_file}")
