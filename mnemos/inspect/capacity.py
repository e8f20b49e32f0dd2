"""How many associations a memory holds before it mixes them up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.memory import AnyMemory, Control, Patterns
from mnemos.state import State

Measure = Literal["squared", "missed"]

ONES = ("rate", "decay", "value_decay", "gain", "delta", "scale", "window", "level")
"""Controls that stand at 1 unless the caller says otherwise: full steps and nothing forgotten. The others stand at 0,
or at their lowest value where that is above."""

QUERIES = 2**22
"""Numbers that the weights of the queries of one read may have together, to bound the memory needed."""


@dataclass(frozen=True)
class Curve(Result):
    """One memory at one key size: `errors[s][i]` is what seed s got wrong of `counts[i]` associations."""

    name: str
    memory: str
    patterns: str
    key_dim: int
    value_dim: int
    state_bytes: int
    counts: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    threshold: float

    @property
    def by_seed(self) -> tuple[float, ...]:
        """For every seed the number of associations at which its error passes the threshold, on the straight line
        between two counts; the last count where it never does."""
        return tuple(_crossing(self.counts, errors, self.threshold) for errors in self.errors)

    @property
    def capacity(self) -> Estimate:
        """The mean of `by_seed`, with its 95 % interval over seeds."""
        return estimate(torch.tensor(self.by_seed))

    @property
    def open(self) -> bool:
        """Whether some seed never passed the threshold, so that the memory holds more than was tried."""
        return any(max(errors) <= self.threshold for errors in self.errors)

    @property
    def means(self) -> tuple[Estimate, ...]:
        """The error at every count, with its 95 % interval over seeds."""
        return tuple(estimate(torch.tensor(column)) for column in zip(*self.errors, strict=True))


@dataclass(frozen=True)
class Capacity(Result):
    """What `mn.capacity` measured: a curve for each memory and key size."""

    curves: tuple[Curve, ...]
    measure: Measure
    threshold: float
    noise: float
    seeds: int

    def __getitem__(self, name: str) -> tuple[Curve, ...]:
        """The curves of one memory, one for each key size. Raises InvalidValue for a name that was not measured."""
        found = tuple(curve for curve in self.curves if curve.name == name)
        names = ", ".join(dict.fromkeys(repr(curve.name) for curve in self.curves))
        expect(bool(found), f"no memory called {name!r} was measured; there are {names}.")
        return found

    def __str__(self) -> str:
        rows = [("memory", "patterns", "key size", "associations", "state of one seed")]
        for curve in self.curves:
            held = curve.capacity
            number = f"{held.mean:.1f} ({held.low:.1f} to {held.high:.1f})"
            text = f"at least {curve.counts[-1]}" if curve.open else number
            rows.append((curve.name, curve.patterns, str(curve.key_dim), text, f"{curve.state_bytes:,} bytes"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        what = "squared error" if self.measure == "squared" else "share that is missed"
        return "\n".join([f"associations held until the {what} passes {self.threshold:g}, {self.seeds} seeds", *lines])

    def draw(self, path: str | Path) -> Path:
        """Draw it as PNG or SVG, by the name's ending: the errors, and with several key sizes how the capacity grows
        with them. Raises RunError without matplotlib (`pip install 'mnemos[report]'`)."""
        from mnemos.inspect.picture import draw

        return draw(self, Path(path))


def capacity(
    memories: AnyMemory | Sequence[AnyMemory] | Mapping[str, AnyMemory],
    *,
    key_dim: int | Sequence[int] = 32,
    value_dim: int | None = None,
    counts: Sequence[int] | None = None,
    patterns: Patterns | None = None,
    measure: Measure = "squared",
    threshold: float = 0.1,
    noise: float = 0.0,
    seeds: int = 8,
    controls: Mapping[str, float] | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Capacity:
    """How many random associations each memory recalls, by `init`, `write` and `read` alone, without a network.

    n pairs (k_i, v_i) are written one after the other, then all are asked for at once. The error at n is the mean over
    them of |o_i - v_i|^2 / |v_i|^2 ("squared"), or the share whose answer is nearer to another of the n values than to
    its own ("missed"; nearness is the cosine, and equal values are not told apart). Capacity is where the error passes
    the threshold. Memories for the same kind of patterns get the same ones; every seed draws its own.

    memories: one, several, or several by name. key_dim: one or several, each at least 1; value_dim: the same as key_dim
    if not given. counts: numbers of associations to try, rising; about six for every doubling up to 4 key_dim if not
    given; as tokens for a memory that takes several pairs a token. patterns: what kind of keys and values; what the
    memory says that it is made for if not given (directions of length 1 for most). noise: how far the cues are from the
    keys, see `Patterns.cues`. controls: constants by name; by default nothing is forgotten and every step is a full one
    (rate 1). A retention policy sees no reads in between.

    Raises InvalidType or InvalidValue for what is not a memory, for sizes, counts or a threshold out of range, for
    controls that no memory takes, and for patterns that cannot be drawn at these sizes.
    """
    named = _named(memories)
    sizes = tuple(key_dim) if isinstance(key_dim, Sequence) else (key_dim,)
    _check(sizes, value_dim, counts, measure, threshold, noise, seeds)
    given = dict(controls or {})
    _check_controls(named, given)
    if patterns is not None and not isinstance(patterns, Patterns):
        raise InvalidType(f'patterns= takes Patterns, for example Patterns("sign"); got {patterns!r}.')

    from tqdm import tqdm

    curves = []
    shown = None if progress else True  # None: only on a terminal
    with torch.no_grad(), tqdm(total=len(named) * len(sizes), desc="capacity", leave=False, disable=shown) as bar:
        for name, memory in named.items():
            for size in sizes:
                chosen = patterns or memory.patterns
                tried = _counts(size) if counts is None else tuple(counts)
                trial = _Trial(memory, chosen, size, value_dim or size, tried, noise, seeds, given, dtype)
                errors, held = trial.run(measure)
                text = memory.to_json()
                kind = f"{chosen.kind}, itself" if chosen.same else chosen.kind
                pairs = tuple(count * memory.pairs for count in tried)
                curves.append(Curve(name, text, kind, size, value_dim or size, held, pairs, errors, threshold))
                bar.update()
    return Capacity(tuple(curves), measure, threshold, noise, seeds)


class _Trial:
    """One memory at one size, each seed a row of the batch."""

    def __init__(
        self,
        memory: AnyMemory,
        patterns: Patterns,
        key_dim: int,
        value_dim: int,
        counts: tuple[int, ...],
        noise: float,
        seeds: int,
        controls: Mapping[str, float],
        dtype: torch.dtype,
    ):
        self.memory, self.counts, self.given = memory, counts, controls
        self.key_dim, self.value_dim, self.dtype = key_dim, value_dim, dtype
        most, pairs = counts[-1] * memory.pairs, memory.pairs
        keys, values, cues = [], [], []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            k, v = patterns.draw(most, key_dim, value_dim, generator)
            keys.append(k)
            values.append(v)
            cues.append(patterns.cues(k, noise, generator))
        self.keys, self.values, self.cues = (torch.stack(x)[:, :, None].to(dtype) for x in (keys, values, cues))
        self.pairs = pairs

    def run(self, measure: Measure) -> tuple[tuple[tuple[float, ...], ...], int]:
        """The errors by seed and count, and the bytes of one seed's state after the last count."""
        seeds = len(self.keys)
        weights = self.memory.initial_weights(1, self.key_dim, self.value_dim, torch.Generator().manual_seed(0))
        precision = self.memory.state_dtype(self.dtype)
        state = self.memory.init(seeds, 1, self.key_dim, self.value_dim, weights or None, precision)
        columns, written = [], 0
        for count in self.counts:
            state = self._written(state, written, count)
            written = count
            columns.append(self._errors(state, count * self.pairs, measure))
        errors = torch.stack(columns, 1)
        return tuple(tuple(row) for row in errors.tolist()), state.nbytes // seeds

    def _written(self, state: State, start: int, end: int) -> State:
        """The pairs of the tokens [start, end) written; a token may bring several along."""
        several = slice(start * self.pairs, end * self.pairs)
        k, v = (
            x[:, several].unflatten(1, (-1, self.pairs)).transpose(2, 3).flatten(-2) for x in (self.keys, self.values)
        )
        made = {c.name: self._control(c, k) for c in self.memory.write_controls}
        return self.memory.write_all(state, k, v, made)

    def _control(self, control: Control, like: Tensor) -> Tensor:
        """Its constant, for the tokens or queries `like` (B, N, 1, channels)."""
        size = control.size(self.key_dim, self.value_dim)
        shape = like.shape[:3] if size is None else (*like.shape[:3], size)
        if control.tied == "query" and control.name not in self.given:
            return like[..., : self.key_dim]
        return like.new_full(shape, _constant(control, self.given))

    def _errors(self, state: State, number: int, measure: Measure) -> Tensor:
        """One number a seed."""
        block = max(1, QUERIES // (len(self.keys) * max(number, self.key_dim)))
        values = self.values[:, :number, 0]
        unit = torch.nn.functional.normalize(values, dim=-1)
        total = values.new_zeros(len(values), dtype=torch.float64)
        for start in range(0, number, block):
            here = slice(start, min(start + block, number))
            q = self.cues[:, here]
            asked = {c.name: self._control(c, q) for c in self.memory.read_controls}
            found, own = self.memory.read(state, q, asked)[:, :, 0], values[:, here]
            if measure == "squared":
                wrong = (found - own).square().sum(-1) / own.square().sum(-1).clamp(min=torch.finfo(own.dtype).tiny)
            else:
                near = found @ unit.mT
                at_own = near.gather(-1, torch.arange(here.start, here.stop).expand(len(values), -1)[..., None])[..., 0]
                close = 1e-6 * found.norm(dim=-1)
                wrong = (near.amax(-1) > at_own + close) | ~(at_own > 0)
            total += wrong.double().sum(-1)
        return total / number


def _crossing(counts: tuple[int, ...], errors: tuple[float, ...], threshold: float) -> float:
    before, error_before = 0, 0.0
    for count, error in zip(counts, errors, strict=True):
        if not error <= threshold:  # NaN has passed it too
            share = (threshold - error_before) / (error - error_before) if math.isfinite(error) else 0.0
            return before + share * (count - before)
        before, error_before = count, error
    return float(counts[-1])


def _counts(key_dim: int) -> tuple[int, ...]:
    steps = round(6 * math.log2(4 * key_dim))
    return tuple(sorted({round(2 ** (i / 6)) for i in range(steps + 1)}))


def _constant(control: Control, given: Mapping[str, float]) -> float:
    if control.name in given:
        return float(given[control.name])
    return min(max(1.0 if control.name in ONES else 0.0, control.low), control.high)


def _named(memories: AnyMemory | Sequence[AnyMemory] | Mapping[str, AnyMemory]) -> dict[str, AnyMemory]:
    if isinstance(memories, AnyMemory):
        memories = [memories]
    named: dict[Any, Any]
    if isinstance(memories, Mapping):
        named = dict(memories)
    elif isinstance(memories, Sequence) and not isinstance(memories, str):
        named = {str(memory): memory for memory in memories}
    else:
        named = {"": memories}
    expect(bool(named), "capacity() takes at least one memory; got none.")
    for name, memory in named.items():
        if not isinstance(memory, AnyMemory) or not isinstance(name, str):
            raise InvalidType(
                'capacity() takes a memory, several, or several by name, for example {"delta rule": Memory()}; got '
                f"{memory!r}{f' under the name {name!r}' if name else ''}. A layer's memory is its spec's `.memory`."
            )
    return named


def _check(
    sizes: tuple[int, ...],
    value_dim: int | None,
    counts: Sequence[int] | None,
    measure: str,
    threshold: float,
    noise: float,
    seeds: int,
) -> None:
    for name, numbers in (("key_dim", sizes), ("value_dim", (value_dim,) if value_dim is not None else (1,))):
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers)
        expect(bool(numbers) and whole, f"capacity({name}=) is a whole number of at least 1; got {numbers!r}.")
    if counts is not None:
        several = isinstance(counts, Sequence) and len(counts) > 0
        expect(
            several and all(isinstance(n, int) and n >= 1 for n in counts) and list(counts) == sorted(set(counts)),
            f"capacity(counts=) are rising numbers of associations, for example (1, 2, 4, 8); got {counts!r}.",
        )
    for name, number in (("threshold", threshold), ("noise", noise)):
        if not isinstance(number, int | float):
            raise InvalidType(f"capacity({name}=) is a number; got {number!r}.")
    expect(measure in ("squared", "missed"), f'capacity(measure=) is "squared" or "missed"; got {measure!r}.')
    expect(math.isfinite(threshold) and threshold > 0, f"capacity(threshold=) is an error above 0; got {threshold!r}.")
    expect(math.isfinite(noise) and noise >= 0, f"capacity(noise=) is a number of at least 0; got {noise!r}.")
    if not isinstance(seeds, int) or seeds < 2:
        raise InvalidValue(f"capacity(seeds=) is at least 2, so that there is an interval; got {seeds!r}.")


def _check_controls(memories: Mapping[str, AnyMemory], given: Mapping[str, float]) -> None:
    taken = sorted({control.name for memory in memories.values() for control in memory.controls})
    unknown = sorted(set(given) - set(taken))
    expect(
        not unknown,
        f"capacity(controls=) names {', '.join(unknown)}, which none of the memories takes; they take "
        f"{', '.join(taken) or 'none'}.",
    )
    for memory in memories.values():
        for control in memory.controls:
            x = given.get(control.name, control.low)
            expect(
                control.low <= x <= control.high,
                f"the constant {x} for the control {control.name!r} must lie in [{control.low:g}, {control.high:g}] "
                f"({control.meaning}).",
            )
