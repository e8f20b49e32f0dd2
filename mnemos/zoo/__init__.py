"""Published systems, one small file each. `mn.zoo.<name>()` gives the spec; `mn.zoo.entries()` lists them all."""

from typing import TYPE_CHECKING, Any

from mnemos.zoo.registry import Entry, entries, entry, model

__all__ = ["Entry", "entries", "entry", "model"]

# Importing a file of this folder binds its name to the module; what is wanted under that name is its function.
for _name, _entry in entries().items():
    globals()[_name] = _entry.build

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return entry(name).build
        except ValueError as error:
            raise AttributeError(str(error)) from error

else:

    def __getattr__(name: str) -> Any: ...
