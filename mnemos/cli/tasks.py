"""`mnemos tasks`."""

from __future__ import annotations

from mnemos.tasks import entries
from mnemos.tasks.registry import table


def command(*, markdown: bool = False) -> None:
    """List the tasks: what is asked, the knobs, and where they come from.

    For example:

      mnemos tasks

    Args:
        markdown: Print the table of docs/tasks.md instead, with what a guess scores.
    """
    if markdown:
        print(table(), end="")
        return
    for entry in entries().values():
        knobs = ", ".join(f"{name}={value}" for name, value in entry.knobs.items())
        print(f"{entry.name}\n  {entry.summary}\n  {knobs}\n  source: {entry.source}")
        for difference in entry.differences:
            print(f"  differs: {difference}")
