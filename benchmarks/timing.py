"""What all benchmarks share: two runs timed alternately, the record of a row, one JSON file that rows are merged into.

    ratio = scale * (time of `second` / time of `first`), the median over pairs, with the least and the most

Beside a peer, `first` is ours and `second` the peer, so that above 1 ours is faster. Bare times on a shared machine say
little; the two times of a pair were taken one right behind the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

Run = Callable[[], object]
RESULTS = Path(__file__).parent / "results" / "performance.json"


@dataclass(frozen=True)
class Pair:
    """Two runs to be timed alternately. `facts`: what else is worth writing down, known once both are made."""

    first: Run
    second: Run
    scale: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One comparison: what is done, beside what, what was predicted and what is aimed for.

    group: which part of the picture it belongs to. mark: None where nothing is aimed for. good: on which side of it the
    ratio should be. most: repeats at most, for rows that take minutes.
    """

    name: str
    group: str
    peer: str
    predicted: float | None
    mark: float | None
    measure: Callable[[Row, argparse.Namespace], Result]
    good: Literal["above", "below"] = "above"
    most: int = 100


@dataclass(frozen=True)
class Result:
    """A row as measured. first, second: medians, in `unit`. ratio, low, high: see the head of this file."""

    name: str
    group: str
    peer: str
    unit: str
    first: float
    second: float
    ratio: float
    low: float
    high: float
    repeats: int
    predicted: float | None
    mark: float | None
    good: Literal["above", "below"]
    facts: dict[str, Any]

    def line(self) -> str:
        """The row of a table."""
        mark = "no mark" if self.mark is None else f"mark {'>=' if self.good == 'above' else '<='} {self.mark:g}"
        predicted = "" if self.predicted is None else f"predicted {self.predicted:g}, "
        return (
            f"{self.name:54} {self.first:9.4g} {self.second:9.4g} {self.unit:9} {self.ratio:7.2f} "
            f"[{self.low:.2f}, {self.high:.2f}]  {predicted}{mark}   beside {self.peer}"
        )


def by_time(make: Callable[..., Pair], *of: Any) -> Callable[[Row, argparse.Namespace], Result]:
    """How to measure a row whose two sides are what `make(*of)` gives."""
    return lambda row, given: _by_time(row, make(*of), given.repeats)


def _by_time(row: Row, pair: Pair, repeats: int) -> Result:
    """Warm up both sides once, then time them alternately."""
    pair.first()
    pair.second()
    times: tuple[list[float], list[float]] = [], []
    for _ in range(min(repeats, row.most)):
        for run, taken in zip((pair.first, pair.second), times, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    ratios = [pair.scale * b / a for a, b in zip(*times, strict=True)]
    first, second = (1e3 * statistics.median(taken) for taken in times)
    return result(row, "ms", first, second, ratios, pair.facts)


def result(
    row: Row, unit: str, first: float, second: float, ratios: Sequence[float], facts: dict[str, Any] | None = None
) -> Result:
    """What `row` came to, from the ratio of every repetition."""
    return Result(
        row.name,
        row.group,
        row.peer,
        unit,
        first,
        second,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        len(ratios),
        row.predicted,
        row.mark,
        row.good,
        facts or {},
    )


def timed(forward: Callable[[], Tensor], leaves: Sequence[Tensor], backward: bool) -> Run:
    """The forward pass with gradients off, or both passes to the gradients of all leaves."""

    def both() -> None:
        torch.autograd.grad(forward().square().mean(), leaves, allow_unused=True)

    def alone() -> None:
        with torch.no_grad():
            forward()

    return both if backward else alone


def same(ours: Callable[[], Tensor], peer: Callable[[], Tensor], leaves: Sequence[Tensor], backward: bool) -> None:
    """Raises AssertionError unless both give the same outputs and, with `backward`, the same gradients: differences
    stay below 2e-4 of the largest number."""
    weights = None
    found = []
    for forward in (ours, peer):
        with torch.set_grad_enabled(backward):
            out = forward()
        weights = torch.randn_like(out) if weights is None else weights
        grads = torch.autograd.grad(out, leaves, weights) if backward else ()
        found.append((out.detach(), *grads))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-4 * max(float(theirs.abs().max()), 1e-6))


def arguments(description: str | None, repeats: int = 5, threads: int = 1) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--repeats", type=int, default=repeats, help=f"timings of each side (default {repeats})")
    parser.add_argument("--threads", type=int, default=threads, help=f"torch threads (default {threads})")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"file to merge results into (default {RESULTS})")
    return parser


def run_rows(parser: argparse.ArgumentParser, given: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Measure the rows asked for, each written down as soon as it is there."""
    chosen = [row for row in rows if given.only in row.name]
    if given.list:
        print("\n".join(row.name for row in chosen))
        return
    if not chosen:
        parser.error(f"no row's name contains {given.only!r}; there are: {'; '.join(row.name for row in rows)}")
    if given.repeats < 1 or given.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    torch.set_num_threads(given.threads)
    bar = tqdm(chosen, leave=False, unit="row", disable=None)
    for row in bar:
        bar.set_description(row.name)
        torch.manual_seed(0)
        found = row.measure(row, given)
        merge(given.out, found)
        tqdm.write(found.line(), file=sys.stdout)
    print(f"merged into {given.out}")


def merge(path: Path, found: Result) -> None:
    """Put this row into the file, in place of one of the same name. Rows of another machine or torch are dropped."""
    machine = {"processor": processor(), "torch": torch.__version__, "python": platform.python_version()}
    held = json.loads(path.read_text()) if path.is_file() else {}
    rows = held.get("rows", {}) if held.get("machine") == machine else {}
    today = date.today().isoformat()
    rows[found.name] = {**asdict(found), "date": today, "threads": torch.get_num_threads()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"date": today, "machine": machine, "rows": rows}, indent=1) + "\n")


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
