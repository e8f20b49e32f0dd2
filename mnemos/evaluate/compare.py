"""Several systems on several tasks, at equal parameters and equal bytes of state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import fmean

import torch

import mnemos as mn
from mnemos.errors import expect
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.evaluate.sizing import grows, parameters, state_bytes, with_parameters, with_state
from mnemos.evaluate.sweep import run_trials
from mnemos.evaluate.trial import Answers, Outcome, Trial, best_rate
from mnemos.layers import LayerDeclaration
from mnemos.memory import AnyMemory
from mnemos.tasks import Task, TokenTask
from mnemos.train import Optimiser
from mnemos.train.run import environment


@dataclass(frozen=True)
class Setting:
    """How all systems of a comparison are built, trained and judged."""

    width: int = 64
    """Channels of every model."""
    depth: int = 2
    """Layers of every model; a system whose pattern is longer than that gets one of each of its layers."""
    heads: int | None = None
    """Heads of every layer; one for every 64 channels, and at least 2, if not given."""
    state_bytes: tuple[int, ...] = ()
    """Bytes of one sequence's state that every system gets; several make a curve. Those of the first system, as it is,
    if none are given."""
    equal_state: bool = True
    """Give every system the same bytes of state; those whose state grows with the text are left as they are."""
    equal_parameters: bool = True
    """Give every system the parameters of the first: feed-forward layers make up the difference."""
    steps: int = 1000
    """Training steps of each trial."""
    batch: int = 32
    """Sequences in a step."""
    rates: tuple[float, ...] = (1e-3, 4e-3)
    """Highest learning rates to try; the best on questions kept for that is judged, for each system and task."""
    seeds: int = 3
    """Independent repetitions: other first weights, other examples."""
    lengths: tuple[int, ...] = (1,)
    """Also ask at these multiples of the length trained on."""
    questions: int = 2000
    """At least so many questions are asked of each model and length."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "steps", "batch", "questions"):
            value = getattr(self, name)
            expect(isinstance(value, int) and value >= 1, f"--{name} must be at least 1; got {value!r}.")
        expect(self.seeds >= 2, f"--seeds must be at least 2, so that there is an interval; got {self.seeds}.")
        expect(bool(self.rates) and all(r > 0 for r in self.rates), f"--rates are positive; got {self.rates}.")
        expect(
            bool(self.lengths) and all(isinstance(n, int) and n >= 1 for n in self.lengths),
            f"--lengths are multiples of the training length, whole numbers of at least 1; got {self.lengths}.",
        )
        expect(all(n >= 1 for n in self.state_bytes), f"--state-bytes are positive; got {self.state_bytes}.")


@dataclass(frozen=True)
class Curve(Result):
    """One system, at one size of state, on one task, at the best of the learning rates.

    scores: the mean over seeds at each length, the first being the one trained on. by: the mean over seeds by each
    fact, as (first, last, estimate). answers: all that was measured, a seed each.
    """

    system: str
    task: str
    parameters: int
    state_bytes: int
    state_grows: bool
    rate: float
    lengths: tuple[int, ...]
    scores: tuple[Estimate, ...]
    by: dict[str, tuple[tuple[int, int, Estimate], ...]]
    losses: tuple[tuple[int, float], ...]
    tokens_per_second: float
    stream_per_token: float
    stopped: int
    """Seeds whose training ended early because numbers were no longer finite."""


@dataclass(frozen=True)
class Compared(Result):
    """What a comparison measured."""

    date: str
    machine: dict[str, str | int | None]
    setting: Setting
    tasks: dict[str, str]
    """The tasks' declarations, as JSON, by the name they were asked for."""
    chance: dict[str, float]
    measure: dict[str, str]
    better: dict[str, str]
    curves: tuple[Curve, ...] = field(default=())

    def of(self, task: str, system: str | None = None) -> list[Curve]:
        """The curves of a task, of one system or of all."""
        return [c for c in self.curves if c.task == task and system in (None, c.system)]

    @property
    def systems(self) -> list[str]:
        """In the order given."""
        return list(dict.fromkeys(c.system for c in self.curves))


def compare(
    systems: Sequence[str] | Mapping[str, mn.ModelSpec | LayerDeclaration | AnyMemory],
    tasks: Mapping[str, Task],
    folder: Path,
    setting: Setting | None = None,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool = True,
) -> Compared:
    """Train every system on every task, from several seeds, and judge them by questions that they have never seen.

    systems: names from the zoo, or declarations by a name of their own; the first is the one whose size the others get.
    tasks: by a name for the tables. folder: keeps every trial; the same call goes on where a killed one was. workers,
    executor, progress: see `run_trials`.

    Raises InvalidValue for systems that cannot have the size asked for and for tasks that cannot be so long, RunError
    for an unfit folder; all before anything is trained.
    """
    setting = setting or Setting()
    named = _declared(systems)
    expect(bool(named) and bool(tasks), "a comparison takes at least one system and one task.")
    entries: list[tuple[str, str, mn.ModelSpec, list[Task]]] = []
    for name, task in tasks.items():
        asked = [task.at_length(task.length * factor) for factor in (1, *(n for n in setting.lengths if n != 1))]
        for system, spec in _sized(named, task, setting):
            entries.append((system, name, spec, asked))
    trials = {
        (system, name, spec, rate, seed): Trial(
            model=spec.to_json(),
            learn=(asked[0].to_json(),),
            ask=tuple(task.to_json() for task in asked),
            steps=setting.steps,
            batch=setting.batch,
            optimiser=Optimiser(rate=rate, weight_decay=0.01),
            seed=seed,
            questions=setting.questions,
        )
        for system, name, spec, asked in entries
        for rate in setting.rates
        for seed in range(setting.seeds)
    }
    outcomes = run_trials(list(trials.values()), folder, workers=workers, executor=executor, progress=progress)
    curves = tuple(
        _best(
            system,
            name,
            spec,
            asked,
            {
                rate: [outcomes[trials[system, name, spec, rate, seed].key] for seed in range(setting.seeds)]
                for rate in setting.rates
            },
        )
        for system, name, spec, asked in entries
    )
    return Compared(
        date.today().isoformat(),
        environment(),
        setting,
        {name: task.to_json() for name, task in tasks.items()},
        {name: task.chance for name, task in tasks.items()},
        {name: task.measure for name, task in tasks.items()},
        {name: task.better for name, task in tasks.items()},
        curves,
    )


def _declared(
    systems: Sequence[str] | Mapping[str, mn.ModelSpec | LayerDeclaration | AnyMemory],
) -> dict[str, mn.ModelSpec]:
    if not isinstance(systems, Mapping):
        repeated = [name for name in systems if list(systems).count(name) > 1]
        expect(not repeated, f"{repeated[:1]} is given twice; a comparison takes each system once.")
        return {name: mn.zoo.model(name) for name in systems}
    return {
        name: spec if isinstance(spec, mn.ModelSpec) else mn.ModelSpec((spec,))  # pyright: ignore[reportArgumentType]
        for name, spec in systems.items()
    }


def _sized(systems: Mapping[str, mn.ModelSpec], task: Task, setting: Setting) -> list[tuple[str, mn.ModelSpec]]:
    """Every system at every size of state, with the parameters that the first has as it is."""
    heads = setting.heads or max(2, setting.width // 64)
    vocabulary = task.vocabulary if isinstance(task, TokenTask) else 1
    plain = {
        name: spec.replace(
            width=setting.width, depth=max(setting.depth, len(spec.pattern)), heads=heads, vocabulary=vocabulary
        )
        for name, spec in systems.items()
    }
    first = next(iter(plain.values()))
    sizes: tuple[int | None, ...] = setting.state_bytes
    if not setting.equal_state or (not sizes and grows(first)):
        sizes = (None,)
    elif not sizes:
        sizes = (state_bytes(first),)
    found = []
    for size in sizes:
        for name, spec in plain.items():
            fit = spec if size is None or grows(spec) else with_state(spec, size)
            if setting.equal_parameters and fit != first:  # the first at another size of state too
                fit = with_parameters(fit, parameters(first))
            if (name, fit) not in found:
                found.append((name, fit))
    return found


def _best(
    system: str, name: str, spec: mn.ModelSpec, asked: list[Task], by_rate: Mapping[float, list[Outcome]]
) -> Curve:
    """The curve at the learning rate that is best on the questions kept for choosing."""
    rate = best_rate(by_rate, asked[0])
    outcomes = by_rate[rate]
    return Curve(
        system=system,
        task=name,
        parameters=outcomes[0].parameters,
        state_bytes=outcomes[0].state_bytes[0],
        state_grows=grows(spec),
        rate=rate,
        lengths=tuple(task.length for task in asked),
        scores=tuple(_over_seeds([o.answers[i].score.mean for o in outcomes]) for i in range(len(asked))),
        by=_facts([o.answers[-1] for o in outcomes]),
        losses=_mean_losses(outcomes),
        tokens_per_second=fmean(o.tokens_per_second for o in outcomes),
        stream_per_token=fmean(o.stream_per_token for o in outcomes),
        stopped=sum(o.stopped is not None for o in outcomes),
    )


def _over_seeds(values: Sequence[float]) -> Estimate:
    return estimate(torch.tensor(values, dtype=torch.float64))


def _facts(answers: Sequence[Answers]) -> dict[str, tuple[tuple[int, int, Estimate], ...]]:
    """The parts that all seeds have in common, averaged over them."""
    found: dict[str, tuple[tuple[int, int, Estimate], ...]] = {}
    for fact in answers[0].by:
        each = [{(p.first, p.last): p.score.mean for p in a.by.get(fact, ())} for a in answers]
        common = [edges for edges in each[0] if all(edges in one for one in each)]
        found[fact] = tuple((*edges, _over_seeds([one[edges] for one in each])) for edges in common)
    return found


def _mean_losses(outcomes: Sequence[Outcome]) -> tuple[tuple[int, float], ...]:
    steps = [step for step, _ in outcomes[0].losses]
    each = [dict(o.losses) for o in outcomes]
    return tuple((s, fmean(one[s] for one in each if s in one)) for s in steps)
