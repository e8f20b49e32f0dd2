"""`mnemos claims`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mnemos.claims.registry import RESULTS, claims, find, kept, run
from mnemos.claims.text import page, section
from mnemos.errors import InvalidValue, RunError
from mnemos.train.files import replace_text


def command(
    action: Annotated[Literal["list", "run", "report"], tyro.conf.Positional],
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    out: Path = Path("runs/claims"),
    full: bool = False,
    seeds: int = 3,
    workers: int = 0,
    keep: bool = False,
    page_file: Annotated[Path | None, tyro.conf.arg(name="page")] = None,
) -> None:
    """Check what papers say: list the claims, measure some, or read what was found.

    list: every claim, and what was found of it. run NAME ...: measure; killed, the same command goes on. report: the
    findings that come with mnemos as a page, or those of the names given.

    For example:

      mnemos claims list

      mnemos claims run hebbian_and_hopfield_capacity

      mnemos claims report rank_collapse

    Args:
        action: list, run or report.
        names: Claims, for run and report; report without any tells of all.
        out: Folder of the runs: NAME.json, NAME.png, and the trials in NAME/.
        full: Measure at the scale meant for a GPU.
        seeds: Repetitions; the intervals are over them.
        workers: Processes of one thread each; 0 for one a core.
        keep: After a run, put the findings among those that come with mnemos (in a source checkout).
        page_file: Write the page of `report` to this file instead of the terminal.
    """
    if action == "list":
        _list()
    elif action == "run":
        if not names:
            raise InvalidValue("name at least one claim of `mnemos claims list`.")
        for claim in [find(name) for name in names]:
            report = run(claim.name, out, full=full, seeds=seeds, workers=workers)
            print("\n".join(section(claim, report, str(out))))
            if keep:
                _keep(claim.name, out)
    else:
        told = [section(find(name), kept(name), str(RESULTS)) for name in names]
        text = "\n".join(line for lines in told for line in lines) if names else page()
        if page_file is None:
            print(text)
        else:
            replace_text(page_file, text)
            print(f"written to {page_file}")


def _list() -> None:
    for claim in claims().values():
        report = kept(claim.name)
        found = "not measured yet" if report is None else f"{report.findings.verdict} ({report.date})"
        print(f"{claim.name}\n  {claim.title} ({', '.join(claim.arxiv)}): {found}; about {claim.minutes:g} minutes")


def _keep(name: str, out: Path) -> None:
    try:
        RESULTS.mkdir(exist_ok=True)
        for kind in ("json", "png"):
            shutil.copyfile(out / f"{name}.{kind}", RESULTS / f"{name}.{kind}")
    except OSError as error:
        raise RunError(f"--keep: {RESULTS} cannot be written to: {error.strerror}.") from error
    print(f"kept in {RESULTS}")
