"""All claims and what was found of each, as a page of Markdown."""

from __future__ import annotations

from pathlib import Path

from mnemos.claims.base import Claim, Report
from mnemos.claims.registry import RESULTS, claims, kept


def page(folder: Path = RESULTS, pictures: str = "../mnemos/claims/results") -> str:
    """The page; `pictures`: where it finds them."""
    found = {name: kept(name, folder) for name in claims()}
    lines = [
        "# Published claims, measured",
        "",
        "Each row is a claim of a paper, measured here by `mnemos claims run NAME`. A claim holds where the 95 % "
        "interval over seeds of every one of its statements lies on the side that the paper says, fails where one lies "
        "wholly on the other side and none on the first, and is undecided where the seeds do not tell. Settings are "
        "small; what shrank is said with each.",
        "",
        "| claim | paper | found here | seeds | date |",
        "| --- | --- | --- | ---: | --- |",
        *(_row(claim, found[name]) for name, claim in claims().items()),
        "",
    ]
    for name, claim in claims().items():
        lines += section(claim, found[name], pictures)
    return "\n".join(lines).rstrip() + "\n"


def section(claim: Claim, report: Report | None, pictures: str) -> list[str]:
    """One claim in full."""
    papers = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in claim.arxiv)
    lines = [
        f"## {claim.title}",
        "",
        f"`{claim.name}` · {papers}, {claim.where} · about {claim.minutes:g} minutes on two cores",
        "",
        f"**The paper:** {claim.sentence}",
        "",
        f"**Here:** {claim.setting} {claim.shrinks}",
        "",
        f"**Refuted if:** {claim.refuted_if}",
        "",
    ]
    if report is None:
        return [*lines, "**Found:** not measured yet.", ""]
    lines += [
        f"**Found: {report.findings.verdict}** ({report.seeds} seeds, {report.date}, "
        f"{report.machine.get('processor')}, torch {report.machine.get('torch')}"
        f"{', in full' if report.full else ''})",
        "",
        "| statement | measured | must be | so it |",
        "| --- | ---: | --- | --- |",
    ]
    for s in report.findings.statements:
        value = f"{s.value.mean:.4g} ({s.value.low:.4g} to {s.value.high:.4g})"
        lines.append(f"| {s.what} | {value} | {s.side} {s.border:g} | {said(s.verdict)} |")
    lines += ["", *([report.findings.note, ""] if report.findings.note else [])]
    return [*lines, f"![{claim.title}]({pictures}/{claim.name}.png)", ""]


def said(verdict: str) -> str:
    """The verdict of a statement as a verb."""
    return {"undecided": "is undecided"}.get(verdict, verdict)


def _row(claim: Claim, report: Report | None) -> str:
    found = (
        ("not measured yet", "", "") if report is None else (report.findings.verdict, f"{report.seeds}", report.date)
    )
    papers = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in claim.arxiv)
    return f"| [{claim.title}](#{anchor(claim.title)}) | {papers} | {' | '.join(found)} |"


def anchor(title: str) -> str:
    """What a heading is linked by."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")
