"""Two systems trained alike: the plan of a demo, made once and kept, and the two training runs that follow from it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import mnemos as mn
from mnemos.errors import DataError, InvalidValue, RunError
from mnemos.evaluate.result import Result
from mnemos.evaluate.sizing import parameters
from mnemos.train import ByteTokenizer, Corpus, Optimiser, TrainConfig
from mnemos.train.files import replace_text
from mnemos.train.loop import Trainer

MEMORY, WINDOW = "titans_mag", "sliding_window"
BEYOND = 8  # the loss by position looks this many training lengths far
PIECE = 2048  # tokens of the long stream that are read at once


@dataclass(frozen=True)
class Asked(Result):
    """What a demo computes, as its user asks for it."""

    data: str = "stdlib"
    """A text file, a folder of text files, or the word stdlib: the sources of Python's standard library."""
    minutes: float = 3.5
    """Training time of one model, on average; the number of steps is chosen from it, once."""
    steps: int | None = None
    """Training steps of each model, instead of --minutes."""
    width: int = 128
    """Channels of the memory model."""
    depth: int = 2
    """Layers of both models."""
    heads: int = 2
    """Heads of each layer."""
    length: int = 256
    """Tokens of one training window."""
    batch: int = 8
    """Windows in one training step."""
    rate: float = 2e-3
    """Highest learning rate."""
    stream: int = 204800
    """Tokens of the long stream."""
    seed: int = 0
    """Decides the first weights and the order of the data."""

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise InvalidValue(f"--minutes must be positive; got {self.minutes}.")
        if self.steps is not None and self.steps < 1:
            raise InvalidValue(f"--steps must be at least 1; got {self.steps}.")
        if self.length < 16:
            raise InvalidValue(f"--length must be at least 16, so that there is a beyond; got {self.length}.")
        if self.stream < 4 * PIECE:
            raise InvalidValue(f"--stream must be at least 4 pieces of {PIECE:,} tokens; got {self.stream}.")


@dataclass(frozen=True)
class Plan(Result):
    """What was asked, and what was chosen once and stays when an interrupted demo goes on."""

    asked: Asked
    steps: int
    opponent: str
    """The transformer's declaration as JSON."""
    text: str
    """The corpus's fingerprint."""

    @property
    def key(self) -> str:
        """Equal only for demos that compute the same."""
        return hashlib.sha256(f"{mn.__version__}\n{self.to_json()}".encode()).hexdigest()[:16]


def refuse_short(asked: Asked, corpus: Corpus) -> None:
    """Raises DataError, before anything is trained, if the text cannot carry the measurements."""
    needed = 2 * BEYOND * asked.length + 1
    if len(corpus.held_out) < needed:
        raise DataError(
            f"the text {asked.data} is too short for the demo: of its {len(corpus.tokens):,} tokens "
            f"{len(corpus.held_out):,} are held out, but two windows of {BEYOND * asked.length:,}, {needed:,} in all, "
            f"are needed to see beyond the training length. Give {20 * needed:,} bytes of text or more, or a smaller "
            "--length."
        )


def make_plan(asked: Asked, corpus: Corpus, out: Path) -> Plan:
    """The plan of the demo in `out` if there is one, otherwise a new one, made and kept.

    Raises:
        RunError: the folder holds a demo that was asked for otherwise, or of a text that was changed since.
    """
    path = out / "plan.json"
    if path.is_file():
        plan = Plan.from_json(path.read_text(encoding="utf-8"))
        _refuse_other(plan, asked, corpus, out)
        return plan
    training_runs(asked, asked.steps or 1, out)  # unfit values are refused before anything is written
    opponent = matching_transformer(asked).to_json()
    out.mkdir(parents=True, exist_ok=True)
    replace_text(_opponent_file(out), opponent)
    plan = Plan(asked, asked.steps or affordable_steps(asked, out), opponent, corpus.fingerprint)
    replace_text(path, plan.to_json() + "\n")
    return plan


def matching_transformer(asked: Asked) -> mn.ModelSpec:
    """The sliding-window transformer whose parameters number within 1 % of the memory model's.

    Its feed-forward layers make up the difference and, where their steps are too coarse for that, its width.

    Raises:
        InvalidValue: there is none.
    """
    sizes = {"depth": asked.depth, "heads": asked.heads, "vocabulary": ByteTokenizer.vocabulary}
    target = parameters(mn.zoo.model(MEMORY, width=asked.width, **sizes))
    widths = range(2 * asked.heads, 2 * asked.width + 1, 2 * asked.heads)
    for width in sorted(widths, key=lambda width: (abs(width - asked.width), width)):
        smallest, next_one = (mn.zoo.model(WINDOW, width=width, ffn=h / width, **sizes) for h in (8, 16))
        step = parameters(next_one) - parameters(smallest)
        hidden = 8 + 8 * round((target - parameters(smallest)) / step)
        if hidden >= 8:
            spec = smallest.replace(ffn=hidden / width)
            if abs(parameters(spec) - target) <= 0.01 * target:
                return spec
    raise InvalidValue(
        f"no {WINDOW} transformer of depth {asked.depth} has the {target:,} parameters of a {MEMORY} of width "
        f"{asked.width}, to 1 %. Choose another --width or --depth."
    )


def affordable_steps(asked: Asked, out: Path) -> int:
    """How many steps of both models fit into twice the asked minutes, from timing a few of each."""
    seconds = 0.0
    for config in training_runs(asked, 8, out):
        trainer = Trainer(config, lambda text: None, False)
        times = []
        for _ in range(8):
            begin = time.perf_counter()
            trainer.train_step()
            times.append(time.perf_counter() - begin)
        seconds += median(times)  # not the mean: the first steps are slower
    return max(10, round(2 * 60 * asked.minutes / seconds))


def training_runs(asked: Asked, steps: int, out: Path) -> tuple[TrainConfig, TrainConfig]:
    """The two runs: they differ in the system and its sizes, in nothing else."""

    def run(name: str, system: str, width: int | None, depth: int | None, heads: int | None) -> TrainConfig:
        return TrainConfig(
            system=system,
            data=asked.data,
            out=out / name,
            steps=steps,
            width=width,
            depth=depth,
            heads=heads,
            length=asked.length,
            batch=asked.batch,
            optimiser=Optimiser(rate=asked.rate, warmup=max(1, min(50, steps // 10))),
            seed=asked.seed,
            device="cpu",
            evaluate_every=max(1, steps // 12),
            evaluate_tokens=32 * asked.length,
            checkpoint_every=max(1, steps // 12),
        )

    return (
        run(MEMORY, MEMORY, asked.width, asked.depth, asked.heads),
        run(WINDOW, str(_opponent_file(out)), None, None, None),
    )


def _opponent_file(out: Path) -> Path:
    return out / f"{WINDOW}.json"


def _refuse_other(plan: Plan, asked: Asked, corpus: Corpus, out: Path) -> None:
    before, now = asdict(plan.asked), asdict(asked)
    differing = [f"{name}: {before[name]!r}, {now[name]!r}" for name in now if before[name] != now[name]]
    if plan.text != corpus.fingerprint:
        differing.append(f"the text of {asked.data} was changed")
    if differing:
        raise RunError(
            f"{out} holds a demo with another configuration (there, here): {'; '.join(differing)}. "
            "Give the same values to go on with it, or another --out for a new one."
        )
