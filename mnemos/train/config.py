"""Everything that decides what a training run computes, in one frozen value."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mnemos.errors import InvalidValue, RunError
from mnemos.train.beginnings import InitialState


@dataclass(frozen=True)
class Optimiser:
    """AdamW, and how its learning rate moves: linearly up, then down along a half cosine."""

    __pydantic_config__: typing.ClassVar[Any] = {"extra": "forbid"}

    rate: float = 1e-3
    """Highest learning rate."""
    warmup: int = 50
    """Steps over which the rate rises from zero."""
    floor: float = 0.1
    """The rate at the end of the run, as a share of the highest, in [0, 1]."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running mean and of the running square of the gradients, each in [0, 1)."""
    weight_decay: float = 0.1
    """Decay of the matrices; scalars, biases and norms are not decayed."""
    clip: float = 1.0
    """Gradients are scaled down to this norm when they are longer."""

    def __post_init__(self) -> None:
        _positive("rate", self.rate)
        _positive("clip", self.clip)
        _at_least("warmup", self.warmup, 0)
        _at_least("weight_decay", self.weight_decay, 0)
        if not 0 <= self.floor <= 1:
            raise InvalidValue(f"floor is a share of the highest rate, in [0, 1]; got {self.floor}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidValue(f"both betas must lie in [0, 1); got {self.betas}.")

    def rate_at(self, step: int, progress: float) -> float:
        """The learning rate of this step (counted from 0) when `progress`, in [0, 1], of the run is behind
        it.
        """
        rising = min(1.0, (step + 1) / max(self.warmup, 1))
        falling = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.rate * rising * falling


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, for how long.

    A run is bitwise repeatable on one machine when it is limited by steps. Limited by minutes, its learning
    rate follows the clock, so no two runs are alike; after a break it goes on where the clock of the last
    checkpoint was.
    """

    __pydantic_config__: typing.ClassVar[Any] = {"extra": "forbid"}

    system: str
    """A name from `mnemos zoo`, or a file that declares a model: JSON, or Python that defines `spec`."""
    data: str
    """A text file, a folder of text files, or the word stdlib: the sources of Python's standard library."""
    out: Path
    """Folder of the run. Started again with the same command, an interrupted run goes on."""
    steps: int | None = None
    """Stop after this many steps. Give this or --minutes."""
    minutes: float | None = None
    """Stop after this much training time, breaks not counted. Give this or --steps."""
    width: int | None = None
    """Channels of the model; 256 unless the model file says it."""
    depth: int | None = None
    """Layers of the model; 4 unless the model file says it."""
    heads: int | None = None
    """Heads of each layer; one for every 64 channels if not given."""
    length: int = 256
    """Tokens of one training window."""
    batch: int = 16
    """Windows in one step."""
    tokenizer: str = "bytes"
    """The word bytes, or a tokenizer.json file of the tokenizers library."""
    documents: Literal["joined", "separate"] = "joined"
    """Whether the memory reads on from one document into the next, or starts afresh with each."""
    initial_state: InitialState = "fresh"
    """With what memory a window begins: fresh, an empty one; passed, the one that an unrelated window of the last step
    ended with; noisy, an empty one plus noise of the size of what such windows ended with; carried, the one that the
    text before it left, the text being read in order (truncated back-propagation through time)."""
    fresh_rows: float = 0.0
    """Share of the windows that begin with an empty memory nevertheless."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """The optimiser."""
    seed: int = 0
    """Decides the first weights and the order of the data."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a CUDA device if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation, by autocast; weights and memories stay float32."""
    threads: int | None = None
    """CPU threads; PyTorch's own choice if not given. From two on, each half of them takes half of the windows."""
    evaluate_every: int = 250
    """Steps between evaluations on held-out text; there is one at the end as well."""
    evaluate_tokens: int = 65536
    """Held-out tokens in one evaluation."""
    checkpoint_every: int = 250
    """Steps between checkpoints; there is one at the end as well."""
    keep: int = 2
    """Newest checkpoints to keep."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            given = "neither" if self.steps is None else "both"
            raise InvalidValue(f"a run ends after a number of steps or of minutes; got {given}. Give exactly one.")
        if self.minutes is not None:
            _positive("minutes", self.minutes)
        for name in ("steps", "width", "depth", "heads", "threads"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("length", "batch", "evaluate_every", "evaluate_tokens", "checkpoint_every", "keep"):
            _at_least(name, getattr(self, name), 1)
        if not 0 <= self.fresh_rows < 1:
            raise InvalidValue(f"fresh_rows is a share of the windows, in [0, 1); got {self.fresh_rows}.")
        if self.fresh_rows and self.initial_state == "fresh":
            raise InvalidValue(
                'with initial_state "fresh" all windows begin with an empty memory: leave out fresh_rows.'
            )
        if not 0 <= self.seed < 2**63:
            raise InvalidValue(f"seed must lie in [0, 2**63); got {self.seed}.")

    def to_json(self) -> str:
        """The configuration as JSON text."""
        return _adapter().dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str, where: str = "the configuration") -> TrainConfig:
        """The configuration that `to_json` wrote. Raises RunError on unknown keys or unfit values, naming
        `where`.
        """
        from pydantic import ValidationError

        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            problems = "; ".join(
                ".".join(str(part) for part in e["loc"]) + ": " + e["msg"] for e in error.errors(include_url=False)
            )
            raise RunError(f"{where} is not a configuration of this version of mnemos: {problems}.") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """The fields, other than the folder, in which `other` differs, each as `name: mine, theirs`."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{name}: {mine[name]!r}, {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(TrainConfig)


def _flat(config: TrainConfig) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    return {k: v for k, v in {**fields, **fields["optimiser"]}.items() if k not in ("optimiser", "out")}


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InvalidValue(f"{name} must be a positive number; got {value}.")


def _at_least(name: str, value: float, least: int) -> None:
    if not (value >= least and math.isfinite(value)):
        raise InvalidValue(f"{name} must be at least {least}; got {value}.")
