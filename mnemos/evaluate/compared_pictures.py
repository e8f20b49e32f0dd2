"""The pictures of a comparison: one image a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mnemos.evaluate.compare import Compared, Curve
from mnemos.evaluate.pictures import COLOURS, FAMILIES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(compared: Compared, folder: Path) -> list[Path]:
    """Write one PNG a task into the folder; returns their paths."""
    paths = []
    for i, task in enumerate(compared.tasks):
        panels = [panel for panel in PANELS if panel[1](compared.of(task))]
        names = list(compared.of(task)[0].by)
        facts = [name for name in names if name != "place"] or names
        with style():
            from matplotlib.figure import Figure

            columns = min(3, len(panels) + len(facts))
            rows = -(-(len(panels) + len(facts)) // columns)
            figure = Figure(figsize=(4.6 * columns, 3.5 * rows + 0.4), layout="constrained", facecolor="white")
            grid = list(figure.subplots(rows, columns, squeeze=False).flat)
            for axes, (title, _, panel) in zip(grid, panels, strict=False):
                panel(axes, compared, task)
                axes.set_title(title, loc="left")
            for axes, fact in zip(grid[len(panels) :], facts, strict=False):
                _by_fact(axes, compared, task, fact)
                longest = compared.of(task)[0].lengths[-1]
                axes.set_title(f"By {fact} ({longest:,} tokens)", loc="left")
            for axes in grid[len(panels) + len(facts) :]:
                axes.set_axis_off()
            several = "; the largest state of each, except against state" if _several_sizes(compared.of(task)) else ""
            figure.suptitle(f"{task}{several}", x=0.01, ha="left", fontsize="medium")
            handles = _handles(compared, task)
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
            path = folder / f"{i + 1}-{''.join(c if c.isalnum() else '-' for c in task)}.png"
            figure.savefig(path, dpi=150)
        paths.append(path)
    return paths


def _colour(compared: Compared, system: str) -> str:
    return FAMILIES[compared.systems.index(system) % len(FAMILIES)]


def _handles(compared: Compared, task: str) -> list:
    from matplotlib.lines import Line2D

    names = dict.fromkeys(curve.system for curve in compared.of(task))
    return [Line2D([], [], color=_colour(compared, name), marker="o", markersize=4, label=name) for name in names]


def _frame(axes: Axes, compared: Compared, task: str) -> None:
    """The guess as a dashed line; shares go from 0 to 1."""
    axes.axhline(compared.chance[task], color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
    axes.set_ylabel(compared.measure[task])
    if compared.measure[task] == "accuracy":
        axes.set_ylim(-0.02, 1.04)


def _bars(axes: Axes, compared: Compared, task: str) -> None:
    """The score at the length trained on, the largest state of each system, with its interval."""
    last = {curve.system: curve for curve in compared.of(task)}
    for i, (system, curve) in enumerate(last.items()):
        score = curve.scores[0]
        axes.bar(i, score.mean, color=_colour(compared, system), alpha=0.85, width=0.7)
        axes.plot([i, i], [score.low, score.high], color=COLOURS["ink"], linewidth=1.2)
    axes.set_xticks([])
    _frame(axes, compared, task)


def _by_length(axes: Axes, compared: Compared, task: str) -> None:
    last = {curve.system: curve for curve in compared.of(task)}
    for system, curve in last.items():
        _line(axes, list(curve.lengths), curve.scores, _colour(compared, system))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.axvline(compared.of(task)[0].lengths[0], color=COLOURS["soft"], linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlabel("tokens (dotted: trained on)")
    _frame(axes, compared, task)


def _by_state(axes: Axes, compared: Compared, task: str) -> None:
    for system in compared.systems:
        curves = sorted(compared.of(task, system), key=lambda curve: curve.state_bytes)
        sizes = [curve.state_bytes for curve in curves]
        _line(axes, sizes, [curve.scores[0] for curve in curves], _colour(compared, system))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1024:,.3g} KiB")
    axes.set_xlabel("state of one sequence")
    _frame(axes, compared, task)


def _by_fact(axes: Axes, compared: Compared, task: str, fact: str) -> None:
    last = {curve.system: curve for curve in compared.of(task)}
    wide = False
    for system, curve in last.items():
        parts = curve.by.get(fact, ())
        middles = [(first + last) / 2 for first, last, _ in parts]
        wide |= any(first != last for first, last, _ in parts)
        _line(axes, middles, [score for _, _, score in parts], _colour(compared, system))
    if wide:
        axes.set_xscale("symlog", base=2, linthresh=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(fact)
    _frame(axes, compared, task)


def _learning(axes: Axes, compared: Compared, task: str) -> None:
    last = {curve.system: curve for curve in compared.of(task)}
    for system, curve in last.items():
        axes.plot([s for s, _ in curve.losses], [x for _, x in curve.losses], color=_colour(compared, system))
    axes.set(xlabel="training steps", ylabel="loss")


def _cost(axes: Axes, compared: Compared, task: str) -> None:
    """Training speed against the score, the area of a point the bytes of state."""
    last = {curve.system: curve for curve in compared.of(task)}
    largest = max(curve.state_bytes for curve in last.values())
    for system, curve in last.items():
        area = 20 + 280 * curve.state_bytes / largest
        axes.scatter(
            [curve.tokens_per_second], [curve.scores[0].mean], s=area, color=_colour(compared, system), alpha=0.7
        )
    axes.set_xlim(0, 1.12 * max(curve.tokens_per_second for curve in last.values()))
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("tokens a second in training (area: bytes of state)")
    _frame(axes, compared, task)


def _line(axes: Axes, x: list, scores, colour: str) -> None:  # pyright: ignore[reportMissingParameterType]
    axes.fill_between(x, [s.low for s in scores], [s.high for s in scores], color=colour, alpha=0.16, linewidth=0)
    axes.plot(x, [s.mean for s in scores], color=colour, marker="o", markersize=3.5)


def _always(curves: list[Curve]) -> bool:
    return True


def _several_lengths(curves: list[Curve]) -> bool:
    return len(curves[0].lengths) > 1


def _several_sizes(curves: list[Curve]) -> bool:
    return len(curves) > len({curve.system for curve in curves})


PANELS: tuple[tuple[str, Callable[[list[Curve]], bool], Callable[[Axes, Compared, str], None]], ...] = (
    ("At the length trained on", _always, _bars),
    ("Beyond the length trained on", _several_lengths, _by_length),
    ("Recall against state", _several_sizes, _by_state),
    ("Learning", _always, _learning),
    ("What it costs", _always, _cost),
)
"""Title, when it is drawn, and how."""
