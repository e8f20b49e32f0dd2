"""`mnemos zoo`."""

from __future__ import annotations

import mnemos as mn
from mnemos.zoo.registry import table


def command(*, verbose: bool = False, markdown: bool = False) -> None:
    """List the published systems, each under the name that the other commands take. Those of the kind network are no
    language models: they are built in Python, by `mn.zoo.<name>().build()`.

    For example:

      mnemos zoo

      mnemos zoo --verbose

    Args:
        verbose: Say also where each differs from its paper.
        markdown: Print the README's table instead, with what each keeps.
    """
    if markdown:
        print(table(), end="")
        return
    entries = mn.zoo.entries().values()
    rows = [("name", "kind", "year", "arXiv", "published as")]
    rows += [(e.name, e.kind, str(e.year), e.arxiv, e.title) for e in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    deviations = [(), *(e.deviations for e in entries)]
    for row, notes in zip(rows, deviations, strict=True):
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))
        if verbose:
            for note in notes:
                print(f"    differs: {note}")
