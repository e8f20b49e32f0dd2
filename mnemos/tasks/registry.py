"""The folder is the registry: every `@task` class in it is one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from mnemos.errors import InvalidValue
from mnemos.folder import import_files, named
from mnemos.tasks.base import Task

Kind = TypeVar("Kind", bound=type[Task])


@dataclass(frozen=True)
class Entry:
    """A task: its name, where it comes from, where ours differs from that, and its class."""

    name: str
    source: str
    differences: tuple[str, ...]
    make: Callable[..., Task]

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").partition("\n")[0]

    @property
    def knobs(self) -> dict[str, Any]:
        """Its knobs and their values unless given."""
        return {f.name: f.default for f in fields(self.make) if f.default is not MISSING}  # pyright: ignore


_entries: dict[str, Entry] = {}


def task(name: str, *, source: str, differences: tuple[str, ...] = ()) -> Callable[[Kind], Kind]:
    """Register a frozen dataclass deriving from Task.

    source: the paper (arXiv number) or the code the task comes from. differences: where ours is another, one a line.
    """

    def register(kind: Kind) -> Kind:
        _entries[name] = Entry(name, source, differences, kind)
        return kind

    return register


def entries() -> dict[str, Entry]:
    """All tasks by name, in alphabetical order."""
    import_files("mnemos.tasks")
    return dict(sorted(_entries.items()))


def table() -> str:
    """All tasks as a Markdown table: what is asked, the knobs with their values unless given, what a guess scores with
    these, and where it comes from."""
    rows = ["| task | what is asked | knobs | a guess has | source |", "| --- | --- | --- | --- | --- |"]
    for found in entries().values():
        made = found.make()
        knobs = ", ".join(f"`{name}={value}`" for name, value in found.knobs.items())
        source = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", found.source)
        cells = (f"`{found.name}`", found.summary, knobs, f"{made.chance:.3g} {made.measure}", source)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def entry(name: str) -> Entry:
    """The task of this name; raises InvalidValue naming the nearest ones."""
    return named(name, entries(), "task", "mnemos tasks")


def make(text: str, /, **knobs: Any) -> Task:
    """A task from a line such as "mqar" or "mqar:pairs=16,length=256"; `knobs` go before those of the line.

    Raises InvalidValue for a task or a knob that there is not, and for a difficulty that cannot be.
    """
    name, _, line = text.partition(":")
    found = entry(name.strip())
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in line.split(","))):
        knob, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise InvalidValue(f"a knob of a task is written name=value; got {part!r} in {text!r}.")
        given[knob] = value
    unknown = sorted((set(given) | set(knobs)) - set(found.knobs))
    if unknown:
        near = difflib.get_close_matches(unknown[0], found.knobs, n=1)
        hint = f" Perhaps you meant {near[0]}." if near else ""
        raise InvalidValue(f"{name} has no knob {', '.join(unknown)}; it has {', '.join(found.knobs)}.{hint}")
    read = {knob: _read(name, knob, value, found.knobs[knob]) for knob, value in given.items()}
    return found.make(**(read | knobs))


def _read(name: str, knob: str, text: str, default: Any) -> Any:
    """The text as a value of the default's kind."""
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif isinstance(default, int | float):
        for kind in (int, float) if isinstance(default, float) else (int,):
            try:
                return kind(text)
            except ValueError:
                continue
    else:
        return text
    raise InvalidValue(f"{name}: {knob}= takes a value like {default!r}; got {text!r}.")
