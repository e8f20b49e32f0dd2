"""`mnemos compare`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

from mnemos.errors import InvalidValue, RunError
from mnemos.evaluate.compare import Compared, Setting, compare
from mnemos.evaluate.compared_text import as_csv, markdown
from mnemos.tasks import make
from mnemos.train.files import replace_text

ANSWERS_WITHIN = "10s"
"""How long a scheduler may take to answer."""


def command(
    systems: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    tasks: tuple[str, ...] = ("mqar",),
    out: Path = Path("runs/compare"),
    setting: Setting = Setting(),  # noqa: B008 (frozen)
    workers: int = 0,
    cluster: str | None = None,
) -> None:
    """Compare systems on tasks at equal parameters and equal bytes of state: a table, and pictures.

    Every system is trained on every task from several seeds and judged by questions that it has never seen. The first
    system is the measure: the others get its parameters, by wider or narrower feed-forward layers, and its bytes of
    state, by other key channels, windows or budgets. Killed? The same command goes on; trials done are not done again.

    For example:

      mnemos compare gated_deltanet mamba2 linear_attention sliding_window --tasks mqar:pairs=16

      mnemos compare gated_deltanet sliding_window --tasks mqar --state-bytes 4096 8192 16384 --lengths 1 4 16

      mnemos compare mamba2 transformer --no-equal-state --tasks copy parity --steps 3000 --out runs/other

      mnemos compare gated_deltanet mamba2 --cluster tcp://host:8786

    Args:
        systems: Names from `mnemos zoo`, the first being the measure of size.
        tasks: Names from `mnemos tasks`, each with its knobs after a colon, as in mqar:pairs=16,length=256.
        out: Folder of the comparison: its trials, table.md, table.csv, results.json and a picture a task.
        workers: Processes of one thread each; 0 for one a core.
        cluster: Address of a Dask scheduler, such as tcp://host:8786, whose workers run the trials instead. They need
            mnemos in this version, and one thread each: `dask worker tcp://host:8786 --nthreads 1 --nworkers 8`.
    """
    if not systems:
        raise InvalidValue("name at least one system of `mnemos zoo`.")
    asked = {line: make(line) for line in tasks}
    with _executor(cluster) as executor:
        compared = compare(systems, asked, out, setting, workers=workers, executor=executor)
    text = markdown(compared)
    print(text)
    print(f"written to {', '.join(map(str, _write(compared, text, out)))}")


def _write(compared: Compared, text: str, out: Path) -> list[Path]:
    paths = {out / "table.md": text, out / "table.csv": as_csv(compared), out / "results.json": compared.to_json()}
    for path, content in paths.items():
        replace_text(path, content)
    try:
        from mnemos.evaluate.compared_pictures import draw

        return [*paths, *draw(compared, out)]
    except RunError as error:  # no matplotlib
        print(f"mnemos compare: no pictures: {error}", file=sys.stderr)
        return list(paths)


@contextmanager
def _executor(cluster: str | None) -> Iterator[Executor | None]:
    if cluster is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise RunError('--cluster needs Dask: pip install "mnemos[cluster]".') from error
    try:
        client = Client(cluster, timeout=ANSWERS_WITHIN)
    except (OSError, ValueError) as error:
        why = f" ({error})" if str(error) else ""
        raise RunError(
            f"--cluster {cluster}: no Dask scheduler answers there{why}. Start one with `dask scheduler`, and give the "
            "address that it prints, such as tcp://host:8786."
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            print(
                f"mnemos compare: {cluster} has no workers yet; trials wait for the first. Start some with "
                f"`dask worker {cluster} --nthreads 1 --nworkers 8`.",
                file=sys.stderr,
            )
        yield client.get_executor(pure=False)
