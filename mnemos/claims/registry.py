"""The folder is the registry: every file of this room with a `@claim` function is a claim."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import mnemos as mn
from mnemos.claims.base import Bench, Claim, Report, registered
from mnemos.errors import RunError
from mnemos.folder import import_files, named
from mnemos.train.files import replace_text
from mnemos.train.run import environment

RESULTS = Path(__file__).parent / "results"
"""The findings that come with the package, NAME.json and NAME.png."""


def claims() -> dict[str, Claim]:
    """All claims by name, in alphabetical order."""
    import_files("mnemos.claims")
    return dict(sorted(registered().items()))


def find(name: str) -> Claim:
    """The claim of this name; raises InvalidValue naming the nearest ones."""
    return named(name, claims(), "claim", "mnemos claims list")


def kept(name: str, folder: Path = RESULTS) -> Report | None:
    """What was found of this claim, as kept in `folder`, or None. Raises RunError for a file that is no report."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    report = Report.from_json(path.read_text(encoding="utf-8"))
    if report.name != name:
        raise RunError(f"{path} is the report of {report.name!r}. Put it under its own name.")
    return report


def run(
    name: str,
    out: Path,
    *,
    full: bool = False,
    seeds: int = 3,
    workers: int = 0,
    progress: bool = True,
    shortest: bool = False,
) -> Report:
    """Measure a claim; its trials are kept in `out`/NAME, so that a killed run goes on, the report in `out`/NAME.json
    and the picture beside it.

    full: the setting for a GPU. seeds: repetitions. workers: processes, 0 for one a core. shortest: try the code only,
    the numbers mean nothing.
    """
    from mnemos.claims.picture import draw

    asked = find(name)
    bench = Bench(out / name, full=full, seeds=seeds, workers=workers, progress=progress, shortest=shortest)
    began = time.perf_counter()
    findings = asked.measure(bench)
    minutes = round((time.perf_counter() - began) / 60, 2)
    report = Report(name, full, seeds, date.today().isoformat(), mn.__version__, environment(), minutes, findings)
    out.mkdir(parents=True, exist_ok=True)
    replace_text(out / f"{name}.json", report.to_json() + "\n")
    draw(asked, report, out / f"{name}.png")
    return report
