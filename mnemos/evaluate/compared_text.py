"""A comparison as tables: for the terminal and Markdown, and as CSV."""

from __future__ import annotations

import csv
import io

from mnemos.evaluate.compare import Compared, Curve

COLUMNS = """
    task system parameters state_bytes state_grows rate length fact first last score low high seeds
    tokens_per_second seconds_per_token
"""


def markdown(compared: Compared) -> str:
    """A table a task: a row a system and size, a column a length."""
    lines: list[str] = []
    for task in compared.tasks:
        curves = compared.of(task)
        lengths = curves[0].lengths
        measure, better = compared.measure[task], compared.better[task]
        lines += [
            f"### {task}: {measure} ({better} is better; a guess has {compared.chance[task]:.3g})",
            "",
            "| system | parameters | state, bytes | rate | "
            + " | ".join(f"{n:,} tokens" for n in lengths)
            + " | training, tokens/s | one token, ms |",
            "| --- |" + " ---: |" * (5 + len(lengths)),
        ]
        lines += [_row(curve) for curve in curves]
        lines.append("")
    seeds = compared.setting.seeds
    lines.append(
        f"Means over {seeds} seeds with 95 % intervals; {compared.setting.steps:,} steps of {compared.setting.batch} "
        f"sequences; of {len(compared.setting.rates)} learning rates the best on questions kept for that. "
        f"{compared.date}, {compared.machine.get('processor')}, torch {compared.machine.get('torch')}."
    )
    if any(curve.stopped for curve in compared.curves):
        lines.append("")
        lines += [
            f"{curve.system} on {curve.task}: in {curve.stopped} of {seeds} seeds numbers were no longer finite."
            for curve in compared.curves
            if curve.stopped
        ]
    return "\n".join(lines) + "\n"


def _row(curve: Curve) -> str:
    bytes_ = f"{curve.state_bytes:,}" + (", grows" if curve.state_grows else "")
    scores = " | ".join(f"{s.mean:.3f} ({s.low:.3f} to {s.high:.3f})" for s in curve.scores)
    return (
        f"| {curve.system} | {curve.parameters:,} | {bytes_} | {curve.rate:g} | {scores} | "
        f"{curve.tokens_per_second:,.0f} | {1e3 * curve.stream_per_token:.2f} |"
    )


def as_csv(compared: Compared) -> str:
    """A line a system, size, task and length, and a line for each part of a curve by a fact."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(COLUMNS.split())
    for curve in compared.curves:
        facts = [curve.task, curve.system, curve.parameters, curve.state_bytes, curve.state_grows, curve.rate]
        speed = [round(curve.tokens_per_second, 1), curve.stream_per_token]
        for length, score in zip(curve.lengths, curve.scores, strict=True):
            write.writerow([*facts, length, "", "", "", score.mean, score.low, score.high, score.count, *speed])
        for fact, parts in curve.by.items():
            for first, last, score in parts:
                row = [curve.lengths[-1], fact, first, last, score.mean, score.low, score.high, score.count]
                write.writerow([*facts, *row, *speed])
    return out.getvalue()
