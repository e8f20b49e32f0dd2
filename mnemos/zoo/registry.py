"""The folder is the registry: every module here that defines a `@published` function is an entry."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from mnemos.errors import InvalidValue
from mnemos.layers import LayerDeclaration
from mnemos.models import ModelSpec

P = ParamSpec("P")
Spec = TypeVar("Spec", bound=LayerDeclaration | ModelSpec)


@dataclass(frozen=True)
class Entry:
    """A published system: its name, where it was published, how ours deviates, and the function that builds it."""

    name: str
    kind: Literal["layer", "model"]
    title: str
    arxiv: str
    year: int
    deviations: tuple[str, ...]
    build: Callable[..., Any]

    @property
    def paper(self) -> str:
        """Title and arXiv number."""
        return f"{self.title} (arXiv {self.arxiv})"


_entries: dict[str, Entry] = {}


def published(
    *, title: str, arxiv: str, year: int, deviations: tuple[str, ...] = ()
) -> Callable[[Callable[P, Spec]], Callable[P, Spec]]:
    """Register a function that returns a layer declaration or a ModelSpec under its own name.

    title: of the paper; arxiv: its number; deviations: where this differs from what the paper states, one a line.
    """

    def register(build: Callable[P, Spec]) -> Callable[P, Spec]:
        returns = build.__annotations__["return"]
        kind: Literal["layer", "model"] = "model" if "ModelSpec" in str(returns) else "layer"
        _entries[build.__name__] = Entry(build.__name__, kind, title, arxiv, year, deviations, build)
        return build

    return register


def entries() -> dict[str, Entry]:
    """All published systems by name, in alphabetical order."""
    package = importlib.import_module("mnemos.zoo")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"mnemos.zoo.{module.name}")
    return dict(sorted(_entries.items()))


def entry(name: str) -> Entry:
    """The entry of this name; raises InvalidValue naming the nearest ones."""
    known = entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise InvalidValue(f"no system is called {name!r}; did you mean {', '.join(near)}? `mnemos zoo` lists all.")
    return known[name]


def model(name: str, **changes: Any) -> ModelSpec:
    """A language model of any system, layer or model: `changes` are fields of ModelSpec (width, depth, heads ...)."""
    spec = entry(name).build()
    if isinstance(spec, LayerDeclaration):
        spec = ModelSpec(pattern=(spec,))
    return spec.replace(**changes)


def table() -> str:
    """All systems as a Markdown table: what they are, where they were published, what they keep."""
    rows = ["| system | kind | what it keeps | paper |", "| --- | --- | --- | --- |"]
    for found in entries().values():
        spec = found.build()
        paper = f"[{found.title}](https://arxiv.org/abs/{found.arxiv}) ({found.year})"
        rows.append(f"| `{found.name}` | {found.kind} | {spec.kept} | {paper} |")
    return "\n".join(rows) + "\n"
