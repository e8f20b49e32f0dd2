"""One trial: a model learns a task from fresh examples, then is asked questions that it has never seen."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import mnemos as mn
from mnemos.errors import InvalidValue, expect
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.layers import balanced, followed
from mnemos.models import VectorModel
from mnemos.tasks import Batch, Task, TokenTask, VectorTask, entries
from mnemos.train import Optimiser
from mnemos.train.loop import make_optimizer

LEARNING, CHOOSING, ASKING = 0, 1, 2
"""Three streams of examples of every task, apart by their seeds: to learn from, to choose a learning rate by, to be
judged by."""
ALONE = threading.Lock()
"""Held while a trial runs."""
EACH = 8
"""Smaller values of a fact have a part of the curve each."""


@dataclass(frozen=True)
class Trial(Result):
    """Everything that decides what a trial computes; on one machine its numbers are repeatable."""

    model: str
    """The declaration of the model, as JSON."""
    learn: tuple[str, ...]
    """The tasks it learns from, as JSON, one after another a step each."""
    ask: tuple[str, ...]
    """The tasks it is judged by, as JSON."""
    steps: int = 1000
    """Steps of the optimiser."""
    batch: int = 32
    """Sequences in a step."""
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(rate=3e-3, weight_decay=0.01))
    """The optimiser."""
    seed: int = 0
    """Decides the first weights and the examples."""
    questions: int = 2000
    """At least so many questions of each task are asked."""
    asked_as: tuple[str, ...] = ()
    """Declarations that are asked in the model's place, with the weights that it has learned, such as one with a window
    or a budget; the model itself if there are none. The answers are those of the first to every task, then of the
    second."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "questions"):
            value = getattr(self, name)
            expect(isinstance(value, int) and value >= 1, f"{name} must be at least 1; got {value!r}.")
        expect(bool(self.learn) and bool(self.ask), "a trial has at least one task to learn, and one to be judged by.")
        expect(isinstance(self.seed, int) and 0 <= self.seed < 2**31, f"seed is in [0, 2**31); got {self.seed!r}.")

    @property
    def key(self) -> str:
        """Equal only for trials that compute the same."""
        return hashlib.sha256(f"{mn.__version__}\n{self.to_json()}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Part(Result):
    """The mean score of the questions whose fact lies in [first, last]."""

    first: int
    last: int
    score: Estimate


@dataclass(frozen=True)
class Answers(Result):
    """What a model answered to one task: its mean score over sequences, and the score by each fact of the task and by
    the place in the sequence. chosen_by: the mean score on questions of their own, for choosing a learning rate; None
    for all but the first task."""

    task: str
    chosen_by: float | None
    score: Estimate
    by: dict[str, tuple[Part, ...]]


@dataclass(frozen=True)
class Outcome(Result):
    """What a trial measured.

    answers, state_bytes: for each declaration that is asked and each task; the bytes are of one sequence, at its end.
    losses: (step, mean loss since the last one). tokens_per_second: in training; stream_per_token: seconds of one
    token, read one by one. stopped: why it ended early, or None.
    """

    answers: tuple[Answers, ...]
    parameters: int
    state_bytes: tuple[int, ...]
    losses: tuple[tuple[int, float], ...]
    seconds: float
    tokens_per_second: float
    stream_per_token: float
    stopped: str | None = None


def best_rate(by_rate: Mapping[float, Sequence[Outcome]], task: Task) -> float:
    """The learning rate whose outcomes are best in the mean, on the questions of the first task, this one, that are
    kept for choosing."""
    sign = 1 if task.better == "higher" else -1
    return max(by_rate, key=lambda rate: sign * fmean(o.answers[0].chosen_by or 0.0 for o in by_rate[rate]))


def model_for(task: Task, spec: mn.ModelSpec) -> nn.Module:
    """A fresh model of this declaration whose inputs and outputs are the task's."""
    expect(spec.delay == 0, f"a trial asks for answers in their place; those of {spec} come {spec.delay} tokens late.")
    if isinstance(task, TokenTask):
        return mn.LanguageModel(spec.replace(vocabulary=task.vocabulary))
    if isinstance(task, VectorTask):
        return VectorModel(spec, inputs=task.inputs, outputs=task.outputs)
    raise InvalidValue(f"a task has tokens or vectors, TokenTask or VectorTask; got {type(task).__name__}.")


def run_trial(trial: Trial) -> Outcome:
    """Learn, and be asked. Runs on the CPU, or on the CUDA device if there is one.

    Torch's generator belongs to the whole process, so trials in threads of one process wait for each other.

    Raises InvalidValue for tasks that no model can have together, before anything is computed.
    """
    entries()  # a process of its own knows no kind of task before
    learn, ask = ([mn.from_json(text) for text in texts] for texts in (trial.learn, trial.ask))
    _refuse_mixed([*learn, *ask])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ALONE, torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        model = model_for(learn[0], mn.from_json(trial.model)).to(device)
        asked = _others(model, [model_for(learn[0], mn.from_json(text)) for text in trial.asked_as])
        began = time.perf_counter()
        losses, tokens, stopped = _learn(model, learn, trial, device)
        seconds = time.perf_counter() - began
        for other in asked:
            other.load_state_dict(model.state_dict())
            other.to(device).eval()
        answers = tuple(_asked(other, t, i == 0, trial, device) for other in asked for i, t in enumerate(ask))
        sizes = tuple(other.state_bytes(task.length) for other in asked for task in ask)  # pyright: ignore
        stream = _stream_per_token(asked[0], learn[0], device)
    count = sum(p.numel() for p in model.parameters())
    return Outcome(answers, count, sizes, losses, seconds, tokens / seconds, stream, stopped)


def _others(model: nn.Module, others: list[nn.Module]) -> list[nn.Module]:
    """The models that are asked. Raises InvalidValue where one cannot have the weights of the one that learns."""
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    for other in others:
        own = {name: tuple(weight.shape) for name, weight in other.state_dict().items()}
        different = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
        expect(
            not different,
            f"asked_as= takes declarations with the weights of the model; {different[:1]} differs. Change only what is "
            "kept and read, not the layers around it.",
        )
    return others or [model]


def _refuse_mixed(tasks: list[Task]) -> None:
    kinds = {(isinstance(t, TokenTask), t.outputs, t.inputs if isinstance(t, VectorTask) else t.outputs) for t in tasks}
    expect(
        len(kinds) == 1,
        "tasks of one trial have the same inputs and outputs, so that one model can answer them all; got "
        f"{', '.join(str(t) for t in tasks)}. Give them the same vocabulary or channels.",
    )


def _learn(
    model: nn.Module, tasks: list[Task], trial: Trial, device: str
) -> tuple[tuple[tuple[int, float], ...], int, str | None]:
    optimizer, choice = make_optimizer(model, trial.optimiser), trial.optimiser
    every = max(1, trial.steps // 50)
    losses, recent, tokens = [], [], 0
    model.train()
    for step in range(trial.steps):
        task = tasks[step % len(tasks)]
        batch = _on(task.batch(trial.batch, seed=_stream(trial.seed, LEARNING), index=step), device)
        for group in optimizer.param_groups:
            group["lr"] = choice.rate_at(step, step / trial.steps)
        with balanced(model) as balance, followed(model) as commitment:
            outputs, _ = model(batch.inputs)
        loss = task.loss(outputs, batch)
        optimizer.zero_grad(set_to_none=True)
        (loss + balance() + commitment()).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), choice.clip).item()
        recent.append(loss.item())
        if not (math.isfinite(recent[-1]) and math.isfinite(norm)):
            return tuple(losses), tokens, f"the loss or its gradient was no longer finite in step {step + 1}"
        optimizer.step()
        tokens += batch.asked.numel()
        if (step + 1) % every == 0 or step + 1 == trial.steps:
            losses.append((step + 1, sum(recent) / len(recent)))
            recent = []
    return tuple(losses), tokens, None


@torch.no_grad()
def _asked(model: nn.Module, task: Task, first: bool, trial: Trial, device: str) -> Answers:
    choosing = float(_scores(model, task, trial, CHOOSING, device)[0].mean()) if first else None
    rows, scores, facts = _scores(model, task, trial, ASKING, device)
    by = {name: _parts(values, scores) for name, values in facts.items()}
    return Answers(task.to_json(), choosing, estimate(rows), by)


def _scores(
    model: nn.Module, task: Task, trial: Trial, stream: int, device: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The mean of each sequence's scores, all scores, and the facts of their questions."""
    rows, scores, facts = [], [], []
    for batch in examples(task, trial.seed, batch=trial.batch, questions=trial.questions, stream=stream):
        batch = _on(batch, device)
        outputs, _ = model(batch.inputs)
        found = task.score(outputs.nan_to_num(0.0, 0.0, 0.0), batch).cpu()  # of a model that diverged
        row, place = (x.cpu() for x in batch.asked.nonzero(as_tuple=True))
        sums = torch.zeros(len(batch.asked), dtype=torch.float64).index_add_(0, row, found.double())
        rows.append(sums / torch.bincount(row, minlength=len(sums)))
        scores.append(found)
        facts.append({"place": place} | {name: fact[batch.asked].cpu() for name, fact in batch.facts.items()})
    joined = {name: torch.cat([f[name] for f in facts]) for name in facts[0]}
    return torch.cat(rows), torch.cat(scores), joined


def examples(task: Task, seed: int, *, batch: int = 32, questions: int = 2000, stream: int = ASKING) -> Iterator[Batch]:
    """The batches by which a trial of that seed is judged on one of its tasks."""
    size = max(1, min(batch, 32768 // task.length))
    asked, index = 0, 0
    while asked < questions or index < 2:
        found = task.batch(size, seed=_stream(seed, stream), index=index)
        asked, index = asked + int(found.asked.sum()), index + 1
        yield found


def _parts(values: Tensor, scores: Tensor) -> tuple[Part, ...]:
    """Scores by value below EACH, beyond that by doublings; the same parts whatever was drawn."""
    parts, first = [], 0
    while first <= int(values.max()):
        last = first if first < EACH else 2 * first - 1
        inside = (values >= first) & (values <= last)
        if int(inside.sum()) >= 2:
            parts.append(Part(first, last, estimate(scores[inside])))
        first = last + 1
    return tuple(parts)


@torch.no_grad()
def _stream_per_token(model: nn.Module, task: Task, device: str, tokens: int = 32) -> float:
    """Seconds of one token of one sequence, read one by one after a whole sequence: the median."""
    inputs = task.batch(1, seed=_stream(0, ASKING)).inputs.to(device)
    _, state = model(inputs)
    times = []
    for i in range(tokens):
        token = inputs[:, i % task.length][:, None]
        began = time.perf_counter()
        _, state = model(token, state)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _stream(seed: int, which: int) -> int:
    return 3 * seed + which


def _on(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch
    facts: dict[str, Any] = {name: fact.to(device) for name, fact in batch.facts.items()}
    return Batch(batch.inputs.to(device), batch.targets.to(device), batch.asked.to(device), facts)
