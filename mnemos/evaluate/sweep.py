"""Many trials: over processes of this machine or of an engine's, each kept as soon as it is done, none done twice.

FOLDER/trials/KEY.json      a trial and what it measured; the key is a hash of the trial
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

import torch

import mnemos as mn
from mnemos.errors import RunError, expect
from mnemos.evaluate.trial import Outcome, Trial, run_trial
from mnemos.train.files import replace_text


def run_trials(
    trials: Sequence[Trial],
    folder: Path,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
) -> dict[str, Outcome]:
    """What every trial measured, by its key.

    Trials that the folder holds already are not run again, so a sweep that was killed goes on where it was when the
    same call is made once more; at most the trials that were under way are lost.

    workers: processes on this machine, of one thread each; 0 for one a core. executor: run them there instead: anything
    that speaks concurrent.futures, such as `dask.distributed.Client(...).get_executor()`, mpi4py's MPIPoolExecutor or
    one of Ray or Parsl; only this process writes into the folder. Its workers need mnemos, in this version; trials of
    one process wait for each other. progress: show a bar on the standard error.

    Raises RunError for a folder that holds trials of another version, or that cannot be written to; and for a trial
    that fails, once all others are done and kept.
    """
    expect(workers >= 0, f"workers= is a number of processes, or 0 for one a core; got {workers}.")
    wanted = {trial.key: trial for trial in trials}
    store = open_store(folder)
    found = {key: read for key, trial in wanted.items() if (read := _read(store, trial)) is not None}
    missing = [trial for key, trial in wanted.items() if key not in found]
    failed: list[tuple[Trial, Exception]] = []
    with _bar(len(wanted), len(found), str(folder), progress) as advance:
        for trial, outcome in _run(missing, workers, executor):
            if isinstance(outcome, Exception):
                if progress and not failed:
                    print(f"{folder}: {_failure(trial, outcome)} The others go on.", file=sys.stderr)
                failed.append((trial, outcome))
                continue
            _write(store, trial, outcome)
            found[trial.key] = outcome
            advance()
    if failed:
        trial, error = failed[0]
        more = f" {len(failed) - 1} more failed." if len(failed) > 1 else ""
        raise RunError(
            f"{_failure(trial, error)}{more} {len(found)} of {len(wanted)} trials are done and kept in {folder}: mend "
            "the cause, and the same call runs only the others."
        ) from error
    return {key: found[key] for key in wanted}


def open_store(folder: Path) -> Path:
    """The folder of trials inside `folder`, made if need be.

    Raises RunError for a folder that is of something else or of another version of mnemos.
    """
    store, mark = folder / "trials", folder / "sweep.json"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file. Give a folder, new or of a sweep to go on with.")
    if mark.is_file():
        try:
            version = json.loads(mark.read_text(encoding="utf-8"))["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{mark} is not what a sweep wrote. Give a new folder.") from error
        if version != mn.__version__:
            raise RunError(
                f"{folder} holds trials of mnemos {version}; this is {mn.__version__}, whose numbers may differ. Give "
                "a new folder."
            )
    else:
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        if others:
            raise RunError(f"{folder} holds other files ({', '.join(others[:3])}) and no sweep. Give a new folder.")
        try:
            store.mkdir(parents=True, exist_ok=True)
            replace_text(mark, json.dumps({"version": mn.__version__}) + "\n")
        except OSError as error:
            raise RunError(f"{folder} cannot be written to: {error.strerror}. Give another folder.") from error
    store.mkdir(exist_ok=True)
    return store


Finished = Iterator[tuple[Trial, Outcome | Exception]]
"""Trials in the order in which they end, and what each measured or why it failed."""


def _run(trials: list[Trial], workers: int, executor: Executor | None) -> Finished:
    if executor is not None:
        yield from _over(executor, trials)
    elif workers == 1 or len(trials) < 2:
        for trial in trials:
            try:
                outcome = run_trial(trial)
            except Exception as error:
                outcome = error
            yield trial, outcome
    else:
        fresh = multiprocessing.get_context("spawn")
        number = min(workers or os.cpu_count() or 1, len(trials))
        with ProcessPoolExecutor(number, mp_context=fresh, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from _over(pool, trials)


def _over(executor: Executor, trials: list[Trial]) -> Finished:
    running: dict[Future[Outcome], Trial] = {executor.submit(run_trial, trial): trial for trial in trials}
    try:
        for done in as_completed(running):
            try:
                outcome = done.result()
            except Exception as error:
                outcome = error
            yield running[done], outcome
    finally:
        for future in running:
            future.cancel()


def _failure(trial: Trial, error: Exception) -> str:
    """Which trial failed and why, as a sentence."""
    model = shorten(str(mn.from_json(trial.model)), 160, placeholder=" ...")
    tasks = ", ".join(str(mn.from_json(text)) for text in trial.learn)
    which = f"the trial of {model} on {tasks}, rate {trial.optimiser.rate:g}, seed {trial.seed},"
    if isinstance(error, BrokenExecutor):
        return f"{which} was under way or waiting when a process of the sweep ended abruptly, often for want of memory."
    why = f"{type(error).__name__}: {error}".strip().removesuffix(".")
    return f"{which} failed with {why}."


def _read(store: Path, trial: Trial) -> Outcome | None:
    path = store / f"{trial.key}.json"
    if not path.is_file():
        return None
    try:
        return Outcome.from_json(json.dumps(json.loads(path.read_text(encoding="utf-8"))["outcome"]))
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete it, and the trial is run again.") from error


def _write(store: Path, trial: Trial, outcome: Outcome) -> None:
    record = {"trial": json.loads(trial.to_json()), "outcome": json.loads(outcome.to_json())}
    replace_text(store / f"{trial.key}.json", json.dumps(record, indent=1) + "\n")


@contextmanager
def _bar(total: int, done: int, title: str, shown: bool) -> Iterator[Callable[[], None]]:
    from tqdm import tqdm

    form = "{desc} {n_fmt}/{total_fmt} trials |{bar}| {elapsed}<{remaining}"
    hidden = not shown or not sys.stderr.isatty()
    with tqdm(total=total, initial=done, desc=title, bar_format=form, disable=hidden, dynamic_ncols=True) as bar:
        finished = done

        def advance() -> None:
            nonlocal finished
            finished += 1
            bar.update()
            if shown and hidden:
                print(f"{title}: {finished} of {total} trials", file=sys.stderr)

        yield advance
