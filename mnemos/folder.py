"""A folder that is a registry: every file in it registers what it defines as soon as it is imported."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import TypeVar

from mnemos.errors import InvalidValue

Entry = TypeVar("Entry")


def import_files(package: str) -> None:
    """Import every file of this package."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def named(name: str, known: Mapping[str, Entry], what: str, command: str) -> Entry:
    """The entry of this name; raises InvalidValue naming the nearest ones, and the command that lists all."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise InvalidValue(f"no {what} is called {name!r}; did you mean {', '.join(near)}? `{command}` lists all.")
    return known[name]
