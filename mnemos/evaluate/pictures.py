"""The pictures of a report, drawn once: as SVG inside the page, where they follow its colours, and as PNG.

Colours are drawn as the light theme's; `as_svg` swaps each for the page's variable of that name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mnemos.errors import RunError
from mnemos.evaluate.demo_results import Demonstration, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"ink": "#24272d", "soft": "#6d737d", "line": "#e3e4e1", "first": "#2f5bd7", "second": "#c9621b"}
FAMILIES = (
    COLOURS["first"],
    COLOURS["second"],
    "#2e8b57",
    "#8e44ad",
    "#b8860b",
    "#c2185b",
    "#00838f",
    "#5d4037",
    COLOURS["soft"],
)
"""Colours of as many things as there may be in one picture."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mnemos",
    "font.size": 9.5,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
Draw = Callable[["Axes", Demonstration], None]


def picture(draw: Draw, demonstration: Demonstration) -> str:
    """One drawing as the text of an `<svg>` element, for inside a page."""
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.5, 2.8), layout="constrained")
        draw(figure.add_subplot(), demonstration)
        return as_svg(figure, draw.__name__)


def main_picture(demonstration: Demonstration, path: Path) -> None:
    """Write the picture for a README as PNG: what is remembered, what it costs, and what it takes."""
    with style():
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        figure = Figure(figsize=(13, 4.1), facecolor="white")
        titles = (
            (by_position, "Reading beyond the training length"),
            (cost_per_token, "Cost of one more token"),
            (state_size, "Size of the memory"),
        )
        for axes, (draw, title) in zip(figure.subplots(1, 3), titles, strict=True):
            draw(axes, demonstration)
            axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10)
        names = [system.title for system in demonstration.systems]
        handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(_colours(), names, strict=False)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
        figure.set_layout_engine("constrained", w_pad=0.12, wspace=0.05)
        figure.savefig(path, dpi=150)


def learning_by_tokens(axes: Axes, demonstration: Demonstration) -> None:
    """Held-out bits per byte against the tokens learned from."""
    for colour, system in _each(demonstration):
        axes.plot(
            [p.tokens / 1e6 for p in system.training],
            [p.bits_per_byte for p in system.training],
            color=colour,
        )
    axes.set(xlabel="million tokens learned from", ylabel="held-out bits per byte")
    _frame_learning(axes, demonstration)


def learning_by_time(axes: Axes, demonstration: Demonstration) -> None:
    """Held-out bits per byte against the seconds of training."""
    longest = max(system.training[-1].seconds for system in demonstration.systems)
    unit, name = (60.0, "minutes") if longest > 120 else (1.0, "seconds")
    for colour, system in _each(demonstration):
        axes.plot(
            [p.seconds / unit for p in system.training],
            [p.bits_per_byte for p in system.training],
            color=colour,
        )
    axes.set(xlabel=f"{name} of training", ylabel="held-out bits per byte")
    _frame_learning(axes, demonstration)


def by_position(axes: Axes, demonstration: Demonstration) -> None:
    """Bits per byte by position in the window, with 95 % bands, the training length marked."""
    for colour, system in _each(demonstration):
        buckets = system.by_position.buckets
        middles = [((b.first + 1) * (b.last + 1)) ** 0.5 for b in buckets]
        lows, highs = [b.value.low for b in buckets], [b.value.high for b in buckets]
        axes.fill_between(middles, lows, highs, color=colour, alpha=0.16, linewidth=0)
        axes.plot(middles, [b.value.mean for b in buckets], color=colour, marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    length, longest = demonstration.length, demonstration.systems[0].by_position.length
    axes.axvline(length, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "training length",
        (length, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        color=COLOURS["soft"],
        fontsize=8.5,
        va="top",
    )
    ticks = [int(length * 2**k) for k in range(-8, 20, 2) if 8 <= length * 2**k <= longest]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set(xlabel="position in the text (tokens read before)", ylabel="bits per byte")


def cost_per_token(axes: Axes, demonstration: Demonstration) -> None:
    """Time for one more token along the stream: each piece thin, a running median over nine pieces thick."""
    top = 0.0
    for colour, system in _each(demonstration):
        tokens = [p.tokens / 1000 for p in system.streaming.pieces]
        times = [p.seconds_per_token * 1e6 for p in system.streaming.pieces]
        smooth = running_median(times)
        axes.plot(tokens, times, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(tokens, smooth, color=colour)
        top = max(top, 1.7 * max(smooth))
    axes.set(xlabel="thousand tokens read", ylabel="microseconds per token", xlim=(0, None), ylim=(0, top))


def reading_on(axes: Axes, demonstration: Demonstration) -> None:
    """Bits per byte along the stream: each piece thin, a running median over nine pieces thick."""
    for colour, system in _each(demonstration):
        tokens = [p.tokens / 1000 for p in system.streaming.pieces]
        needed = [p.bits_per_byte for p in system.streaming.pieces]
        axes.plot(tokens, needed, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(tokens, running_median(needed), color=colour)
    axes.set(xlabel="thousand tokens read", ylabel="bits per byte", xlim=(0, None))


def state_size(axes: Axes, demonstration: Demonstration) -> None:
    """Bytes carried from piece to piece, and what the cache of full attention would hold (computed)."""
    pieces = demonstration.systems[0].streaming.pieces
    tokens = [p.tokens for p in pieces]
    thousands = [count / 1000 for count in tokens]
    cache = [count * demonstration.cache_bytes_per_token for count in tokens]
    axes.plot(thousands, cache, color=COLOURS["soft"], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        "full attention (computed)",
        (thousands[len(thousands) // 2], cache[len(cache) // 2]),
        xytext=(0, -14),
        textcoords="offset points",
        color=COLOURS["soft"],
        fontsize=8.5,
    )
    for colour, system in _each(demonstration):
        axes.plot(
            [p.tokens / 1000 for p in system.streaming.pieces],
            [p.state_bytes for p in system.streaming.pieces],
            color=colour,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: size(value))
    axes.set(xlabel="thousand tokens read", ylabel="state", xlim=(0, None))


def running_median(values: list[float]) -> list[float]:
    """The median of each value with its four neighbours on either side."""
    return [median(values[max(i - 4, 0) : i + 5]) for i in range(len(values))]


def size(count: float) -> str:
    """A number of bytes for people: 512 B, 96 kB, 1.2 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element without outside references, coloured by the page's variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)  # several pictures share one page
    for colour, value in COLOURS.items():
        text = text.replace(value, f"var(--{colour})")
    return text


def _each(demonstration: Demonstration) -> list[tuple[str, System]]:
    return list(zip(_colours(), demonstration.systems, strict=False))


def _colours() -> tuple[str, str]:
    return COLOURS["first"], COLOURS["second"]


def _frame_learning(axes: Axes, demonstration: Demonstration) -> None:
    """Leave out the first fall from 8 bits, which would flatten all that follows."""
    later = [p.bits_per_byte for system in demonstration.systems for p in system.training[1:]]
    lowest = min(p.bits_per_byte for system in demonstration.systems for p in system.training)
    top = max(later) if later else 8.0
    axes.set(ylim=(lowest - 0.06 * (top - lowest) - 0.02, top + 0.04 * (top - lowest) + 0.02), xlim=(0, None))


def style() -> Any:
    """The look of all pictures, as a context. Raises RunError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise RunError(
            "drawing a report needs matplotlib, which is not installed. Install it with `pip install 'mnemos[report]'`."
        ) from error
    return matplotlib.rc_context(STYLE)
