"""The picture of a capacity measurement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnemos.errors import RunError
from mnemos.evaluate.pictures import COLOURS, FAMILIES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mnemos.inspect.capacity import Capacity


def draw(result: Capacity, path: Path) -> Path:
    """Write it to `path`, as PNG or SVG."""
    if path.suffix not in (".png", ".svg"):
        raise RunError(f"a picture is drawn as .png or .svg; got {path.name!r}.")
    sizes = sorted({curve.key_dim for curve in result.curves})
    with style():
        from matplotlib.figure import Figure

        panels = 2 if len(sizes) > 1 else 1
        figure = Figure(figsize=(5.6 * panels, 4.0), layout="constrained", facecolor="white")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _errors(axes[0], result, sizes[-1])
        if panels > 1:
            _growth(axes[1], result, sizes)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return path


def _errors(axes: Axes, result: Capacity, size: int) -> None:
    """The error against the number of associations, with 95 % bands, at one key size."""
    top = 0.0
    for colour, name in _families(result):
        curve = next(curve for curve in result[name] if curve.key_dim == size)
        means = curve.means
        axes.fill_between(
            curve.counts, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.16, linewidth=0
        )
        axes.plot(curve.counts, [m.mean for m in means], color=colour, label=name or "memory")
        top = max(top, min(max(m.mean for m in means), 8 * result.threshold))
    axes.axhline(result.threshold, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
    what = "squared error" if result.measure == "squared" else "share that is missed"
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(xlabel="associations written", ylabel=f"{what} of recall", ylim=(0, max(1.1 * top, 2 * result.threshold)))
    axes.set_title(f"Recall with keys of {size} channels", loc="left")


def _growth(axes: Axes, result: Capacity, sizes: list[int]) -> None:
    """Associations held against the key size; hollow where the memory holds more than was tried."""
    for colour, name in _families(result):
        curves = sorted(result[name], key=lambda curve: curve.key_dim)
        held = [curve.capacity for curve in curves]
        x = [curve.key_dim for curve in curves]
        axes.fill_between(x, [h.low for h in held], [h.high for h in held], color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, [h.mean for h in held], color=colour)
        for curve, h in zip(curves, held, strict=True):
            face = "white" if curve.open else colour
            axes.plot([curve.key_dim], [h.mean], marker="o", markersize=5, color=colour, markerfacecolor=face)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.set(xlabel="key channels", ylabel="associations held")
    axes.set_title("Capacity (hollow: more than was tried)", loc="left")


def _families(result: Capacity) -> list[tuple[str, str]]:
    names = dict.fromkeys(curve.name for curve in result.curves)
    return [(FAMILIES[i % len(FAMILIES)], name) for i, name in enumerate(names)]
