"""One picture of all results: how many times better than the peers, and whether costs stay flat.

    python benchmarks/picture.py

Reads what the other benchmarks wrote and writes a PNG next to it. A bar is a row's median ratio, the thin line its
least and most, the tick what is aimed for. A bar that reaches its tick is blue, one that does not orange, one without a
tick grey. Rows that were not measured are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timing import RESULTS

from mnemos.evaluate.pictures import COLOURS, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEERS = ("beside peers", "beside full attention", "peak memory", "training")
"""The groups whose ratios are how many times better ours is."""


def colour_of(row: dict[str, Any]) -> str:
    """By whether the row reached what is aimed for, if anything is."""
    if row["mark"] is None:
        return COLOURS["soft"]
    reached = row["ratio"] >= row["mark"] if row["good"] == "above" else row["ratio"] <= row["mark"]
    return COLOURS["first" if reached else "second"]


def bars(axes: Axes, rows: Sequence[dict[str, Any]], labels: Sequence[str], form: str) -> None:
    """One bar a row, from 1 where ratios are drawn in powers, else from 0."""
    start = 1.0 if axes.get_xscale() == "log" else 0.0
    for y, row in enumerate(rows):
        axes.barh(y, row["ratio"] - start, left=start, height=0.62, color=colour_of(row))
        axes.plot([row["low"], row["high"]], [y, y], color=COLOURS["ink"], linewidth=1)
        if row["mark"] is not None:
            axes.plot([row["mark"]] * 2, [y - 0.42, y + 0.42], color=COLOURS["ink"], linewidth=1.8)
        right = max(row["high"], row["mark"] or 0, start)
        axes.annotate(
            form.format(row["ratio"]),
            (right, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=COLOURS["soft"],
        )
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


def beside_peers(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Peer / ours, in powers."""
    axes.set_xscale("log")
    bars(axes, rows, [row["name"].replace("forward+backward", "f+b") for row in rows], "{:.1f}x")
    ends = [x for row in rows for x in (row["low"], row["high"], row["mark"] or 1.0)]
    axes.set_xlim(min(0.7, *ends) / 1.1, max(2.0, *ends) * 2)
    ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if axes.get_xlim()[0] <= x]
    axes.set_xticks([x for x in ticks if x <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1, color=COLOURS["soft"], linewidth=1)
    for y, (row, before) in enumerate(zip(rows[1:], rows, strict=False)):
        if row["group"] != before["group"]:
            axes.axhline(y + 0.5, color=COLOURS["soft"], linewidth=0.6, linestyle=(0, (4, 3)))


def share(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Of what one large matrix product reaches."""
    named = [row["name"].removesuffix(", of GEMM").replace("forward+backward", "f+b") for row in rows]
    bars(axes, rows, named, "{:.0%}")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")


def streams(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Time of a token by how many were read before, over that after 1,024."""
    by_system: dict[str, list[tuple[int, float, float, float]]] = {}
    for row in rows:
        system = row["name"].removeprefix("streaming ").split(" after ")[0]
        points = by_system.setdefault(system, [(1024, 1.0, 1.0, 1.0)])
        points.append((row["facts"]["context"], row["ratio"], row["low"], row["high"]))
    for n, (system, points) in enumerate(by_system.items()):
        x, middle, low, high = zip(*sorted(points), strict=True)
        colour = COLOURS["second" if "titans" in system else "first"]
        axes.plot(x, middle, color=colour, marker="o", markersize=4, label=system, linestyle=("-", "--")[n % 2])
        axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    marks = {row["mark"] for row in rows}
    for mark in marks:
        axes.axhline(mark, color=COLOURS["ink"], linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks([1024, 102400, 1048576], ["1k", "100k", "1M"])
    axes.set_ylim(0, max(1.5, *(row["high"] for row in rows)) * 1.05)
    axes.set(xlabel="tokens read before")
    axes.legend(frameon=False, fontsize=8, loc="lower left", handlelength=3)


def growth(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Time for twice the work / for the work."""
    bars(axes, rows, [row["name"].removeprefix("growth ") for row in rows], "{:.2f}x")
    axes.set_xlim(0, max(4.5, *(row["high"] * 1.2 for row in rows)))
    axes.axvline(2, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture of all rows."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = list(record["rows"].values())
    groups = {
        group: [row for row in rows if row["group"] == group] for group in dict.fromkeys(r["group"] for r in rows)
    }
    beside = [row for group in PEERS for row in groups.get(group, [])]
    parts = (
        (beside_peers, beside, "Times better than the peer (time, memory, bits)"),
        (share, groups.get("share of the ceiling", []), "Share of the speed of a large matrix product"),
        (streams, groups.get("streaming", []), "Cost of a token, relative to after 1k tokens"),
        (growth, groups.get("growth", []), "Cost of twice the work, relative to the work"),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, max(7.5, 0.3 * len(beside) + 1.5)), facecolor="white", layout="constrained")
        grid = figure.add_gridspec(3, 2, width_ratios=(1.25, 1))
        places = (grid[:, 0], grid[0, 1], grid[1, 1], grid[2, 1])
        for place, (part, shown, title) in zip(places, parts, strict=True):
            if shown:
                axes = figure.add_subplot(place)
                part(axes, shown)
                axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=8)
        machine = "{processor}, torch {torch}".format(**record["machine"])
        figure.supxlabel(
            f"{machine}, {record['date']}. f+b: forward and backward. Tick: what is aimed for.",
            fontsize=8.5,
            color=COLOURS["soft"],
        )
        figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"what was measured (default {RESULTS})")
    parser.add_argument("--out", type=Path, help="the picture (default: beside the results, as PNG)")
    given = parser.parse_args()
    if not given.results.is_file():
        parser.error(f"{given.results} is not there; measure first, for example by benchmarks/peers.py")
    path = given.out or given.results.with_suffix(".png")
    draw(json.loads(given.results.read_text()), path)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
