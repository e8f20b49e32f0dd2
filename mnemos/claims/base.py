"""What a claim is: a paper's sentence, how it is measured here, what would refute it, and what was found.

A claim is a file of this room with a function under `@claim`. The function gets a `Bench`, which runs trials, and
returns `Findings`: statements, each a number with its interval and the side of a border on which it must lie, and the
panels of a picture. Whether the claim holds is then arithmetic, and it may come out either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

import mnemos as mn
from mnemos.errors import InvalidValue, expect
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.evaluate.sweep import run_trials
from mnemos.evaluate.trial import Outcome, Trial, best_rate
from mnemos.tasks import Task
from mnemos.train import Optimiser

Verdict = Literal["holds", "fails", "undecided"]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Statement(Result):
    """A number that the claim says lies above (or below) a border: `what` in words, its mean over seeds with a 95 %
    interval."""

    what: str
    value: Estimate
    border: float = 0.0
    side: Literal["above", "below"] = "above"

    @property
    def verdict(self) -> Verdict:
        """holds or fails where the whole interval lies on one side, undecided where the border lies in it."""
        low, high = (self.value.low, self.value.high) if self.side == "above" else (-self.value.high, -self.value.low)
        border = self.border if self.side == "above" else -self.border
        if low > border:
            return "holds"
        return "fails" if high < border else "undecided"


@dataclass(frozen=True)
class Line(Result):
    """A named line of a panel: x, and the mean over seeds with its interval at each."""

    name: str
    x: tuple[float, ...]
    y: tuple[Estimate, ...]


@dataclass(frozen=True)
class Panel(Result):
    """One part of the picture. Lines of a single x are drawn as bars."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Findings(Result):
    """What was measured. note: what a reader should know beside the numbers."""

    statements: tuple[Statement, ...]
    panels: tuple[Panel, ...]
    note: str = ""

    @property
    def verdict(self) -> Literal["holds", "fails", "holds in part", "undecided"]:
        """fails where a statement fails and none holds, holds where all hold."""
        each = {statement.verdict for statement in self.statements}
        if each == {"holds"}:
            return "holds"
        if "holds" in each:
            return "holds in part"
        return "fails" if "fails" in each else "undecided"


@dataclass(frozen=True)
class Report(Result):
    """Findings as they are kept: of which claim, at which scale, when, where, by which version, from how many seeds."""

    name: str
    full: bool
    seeds: int
    date: str
    version: str
    machine: dict[str, str | int | None]
    minutes: float
    findings: Findings


class Bench:
    """What a claim measures with.

    folder: keeps its trials. full: the setting for a GPU rather than that for two cores. seeds: repetitions. device:
    where its own tensors belong.
    """

    def __init__(
        self,
        folder: Path,
        *,
        full: bool = False,
        seeds: int = 3,
        workers: int = 0,
        progress: bool = True,
        shortest: bool = False,
    ):
        expect(seeds >= 2, f"a claim is measured with at least 2 seeds, so that there is an interval; got {seeds}.")
        self.folder, self.full, self.seeds = folder, full, seeds
        self.workers, self.progress, self.shortest = workers, progress, shortest
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def trials(self, trials: Mapping[tuple, Trial]) -> dict[tuple, Outcome]:
        """What each of the trials measured, by its name; those done before are not done again."""
        if self.shortest:
            short = {"steps": 2, "batch": 2, "questions": 8}
            trials = {name: dataclasses.replace(trial, **short) for name, trial in trials.items()}
        found = run_trials(list(trials.values()), self.folder, workers=self.workers, progress=self.progress)
        return {name: found[trial.key] for name, trial in trials.items()}

    def learned(
        self,
        models: Mapping[Name, mn.ModelSpec],
        learn: Sequence[Task],
        ask: Sequence[Task],
        *,
        steps: int,
        rates: Sequence[float],
        questions: int = 2000,
    ) -> dict[Name, list[Outcome]]:
        """What each model answers to the tasks of `ask` when it has learned those of `learn`, for every seed: at the
        one of the rates that is best over all seeds on the questions of `ask[0]` kept for choosing."""
        trials = {
            (name, rate, seed): Trial(
                model=model.to_json(),
                learn=tuple(task.to_json() for task in learn),
                ask=tuple(task.to_json() for task in ask),
                steps=steps,
                batch=32,
                optimiser=Optimiser(rate=rate, weight_decay=0.01),
                seed=seed,
                questions=questions,
            )
            for name, model in models.items()
            for rate in rates
            for seed in range(self.seeds)
        }
        outcomes, found = self.trials(trials), {}
        for name in models:
            by_rate = {rate: [outcomes[name, rate, seed] for seed in range(self.seeds)] for rate in rates}
            found[name] = by_rate[best_rate(by_rate, ask[0])]
        return found

    def size(self, small: int, full: int, shortest: int | None = None) -> int:
        """A number that depends on the scale: on two cores, in full, and where only the code is tried."""
        if self.shortest:
            return small if shortest is None else shortest
        return full if self.full else small

    def pick(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """All of them, or two where only the code is tried."""
        return (values[0], values[1]) if self.shortest else values


@dataclass(frozen=True)
class Claim:
    """A published claim. sentence: what the paper says; where: the part of the paper. setting: how it is measured here.
    refuted_if: what would show it wrong. shrinks: what is smaller here than in the paper. minutes: on two cores."""

    name: str
    title: str
    arxiv: tuple[str, ...]
    where: str
    sentence: str
    setting: str
    refuted_if: str
    shrinks: str
    minutes: float
    measure: Callable[[Bench], Findings] = field(compare=False)


_claims: dict[str, Claim] = {}


def claim(
    *,
    title: str,
    arxiv: Sequence[str],
    where: str,
    sentence: str,
    setting: str,
    refuted_if: str,
    shrinks: str,
    minutes: float,
) -> Callable[[Callable[[Bench], Findings]], Callable[[Bench], Findings]]:
    """Register a function that measures a claim under its own name."""

    def register(measure: Callable[[Bench], Findings]) -> Callable[[Bench], Findings]:
        name = measure.__name__
        told = (title, tuple(arxiv), where, sentence, setting, refuted_if, shrinks, minutes)
        _claims[name] = Claim(name, *told, measure)
        return measure

    return register


def registered() -> dict[str, Claim]:
    """The claims of the files imported so far."""
    return _claims


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds with its 95 % interval; of one number a seed."""
    return estimate(torch.tensor(list(values), dtype=torch.float64))


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """first minus second, paired by seed. Raises InvalidValue for different numbers of seeds."""
    if len(first) != len(second):
        raise InvalidValue(f"paired differences take as many seeds on both sides; got {len(first)} and {len(second)}.")
    return over_seeds([a - b for a, b in zip(first, second, strict=True)])
