"""The folder is the registry: every module here that defines a `@published` function is an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, get_type_hints

from mnemos.errors import InvalidType, InvalidValue
from mnemos.folder import import_files, named
from mnemos.layers import LayerDeclaration
from mnemos.models import ModelSpec, NetworkDeclaration

P = ParamSpec("P")
Spec = TypeVar("Spec", bound=LayerDeclaration | ModelSpec | NetworkDeclaration)
Kind = Literal["layer", "model", "network"]

KINDS: dict[Kind, type[LayerDeclaration | ModelSpec | NetworkDeclaration]] = {
    "layer": LayerDeclaration,
    "model": ModelSpec,
    "network": NetworkDeclaration,
}
"""What an entry builds: a layer, a language model, or a network that takes something else than tokens."""


@dataclass(frozen=True)
class Entry:
    """A published system: its name, where it was published, how ours deviates, and the function that builds it."""

    name: str
    kind: Kind
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
    """Register a function that returns a layer declaration, a ModelSpec or a network declaration under its own
    name. The entry's kind is that of the type which it says that it returns.

    title: of the paper; arxiv: its number; deviations: where this differs from what the paper states, one a line.
    """

    def register(build: Callable[P, Spec]) -> Callable[P, Spec]:
        returns = get_type_hints(build).get("return")
        kinds: list[Kind] = [k for k, base in KINDS.items() if isinstance(returns, type) and issubclass(returns, base)]
        if not kinds:
            raise InvalidType(
                f"{build.__name__} must be annotated with what it returns, a LayerDeclaration, a ModelSpec or a "
                f"NetworkDeclaration; got {returns!r}."
            )
        _entries[build.__name__] = Entry(build.__name__, kinds[0], title, arxiv, year, deviations, build)
        return build

    return register


def entries() -> dict[str, Entry]:
    """All published systems by name, in alphabetical order."""
    import_files("mnemos.zoo")
    return dict(sorted(_entries.items()))


def entry(name: str) -> Entry:
    """The entry of this name; raises InvalidValue naming the nearest ones."""
    return named(name, entries(), "system", "mnemos zoo")


def model(name: str, **changes: Any) -> ModelSpec:
    """A language model of any system, layer or model: `changes` are fields of ModelSpec (width, depth, heads ...).

    Raises InvalidValue for a system that does not exist, or is a network of another kind.
    """
    spec = entry(name).build()
    if isinstance(spec, NetworkDeclaration):
        raise InvalidValue(f"{name} is no language model but a network of its own; mn.zoo.{name}().build() makes it.")
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
