"""The picture of a claim."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from mnemos.claims.base import Claim, Line, Panel, Report
from mnemos.evaluate.pictures import COLOURS, FAMILIES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(claim: Claim, report: Report, path: Path) -> Path:
    """Write its panels side by side as PNG."""
    panels = report.findings.panels
    with style():
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        figure = Figure(figsize=(4.8 * len(panels), 3.9), layout="constrained", facecolor="white")
        names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
        colours = {name: FAMILIES[i % len(FAMILIES)] for i, name in enumerate(names)}
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, panel, colours)
        handles = [Line2D([], [], color=colours[name], marker="o", markersize=4, label=name) for name in names]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
        title = textwrap.fill(f"{claim.title}: {report.findings.verdict}", 58 * len(panels))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.savefig(path, dpi=130)
    return path


def _panel(axes: Axes, panel: Panel, colours: dict[str, str]) -> None:
    if all(len(line.x) == 1 for line in panel.lines):
        for i, line in enumerate(panel.lines):
            axes.bar(i, line.y[0].mean, color=colours[line.name], alpha=0.85, width=0.7)
            axes.plot([i, i], [line.y[0].low, line.y[0].high], color=COLOURS["ink"], linewidth=1.2)
        axes.set_xticks([])
    else:
        for line in panel.lines:
            _line(axes, line, colours[line.name])
        if panel.x_log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    if panel.y_log:
        axes.set_yscale("log")
    axes.set(xlabel=panel.x, ylabel=panel.y)
    axes.set_title(panel.title, loc="left")


def _line(axes: Axes, line: Line, colour: str) -> None:
    low, high = [e.low for e in line.y], [e.high for e in line.y]
    axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(line.x, [e.mean for e in line.y], color=colour, marker="o", markersize=3.5)
