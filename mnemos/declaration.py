"""Declarations: frozen, hashable, printable values that say what to build, and travel as JSON.

Every choice (a structure, an objective, a gate, a layer spec ...) is a frozen dataclass that derives from
`Declaration`. Its JSON form is `{"kind": "ClassName", "field": value, ...}`, fields at their default left out.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar, Self

from mnemos.errors import InvalidType, InvalidValue


class Declaration:
    """Base of all frozen declarations. Subclasses are frozen dataclasses of plain values and other declarations."""

    kinds: ClassVar[dict[str, type[Declaration]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Declaration.kinds[cls.__name__] = cls
        further = next(
            (base.__dict__["__post_init__"] for base in cls.__mro__ if "__post_init__" in base.__dict__), None
        )

        def __post_init__(self: Declaration) -> None:
            _check_numbers(self)
            if further is not None:
                further(self)

        cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]

    def to_json(self) -> str:
        """This declaration as one line of JSON; `mn.from_json` gives back an equal one."""
        text: str | None = self.__dict__.get("_json")
        if text is None:  # written once: states name their owner by it at every call, and compiled code cannot write it
            text = json.dumps(_encode(self), separators=(", ", ": "))
            object.__setattr__(self, "_json", text)
        return text

    def replace(self, **changes: Any) -> Self:
        """The same declaration with some fields changed; raises InvalidValue for a field that it does not have."""
        assert dataclasses.is_dataclass(self)
        fields = {_argument(field): getattr(self, field.name) for field in dataclasses.fields(self)}
        unknown = sorted(set(changes) - set(fields))
        if unknown:
            raise InvalidValue(f"{type(self).__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}.")
        return type(self)(**(fields | changes))

    def __str__(self) -> str:
        """Like the constructor call, fields at their default left out."""
        parts = [f"{n}={v!r}" if isinstance(v, str) else f"{n}={v}" for n, v in _given(self).items()]
        return f"{type(self).__name__}({', '.join(parts)})"


def from_json(text: str) -> Any:
    """The declaration that `to_json` wrote.

    Raises InvalidValue on text that is no JSON, on an unknown kind or an unknown field.
    """
    if not isinstance(text, str):
        raise InvalidType(f"from_json takes the text that to_json wrote; got {type(text).__name__}.")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidValue(f"a declaration must be JSON; this is not: {error}.") from error
    return _decode(data)


NUMBERS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool": (bool,),
}


def _check_numbers(declaration: Declaration) -> None:
    """Raises InvalidType where a field that takes a number holds something else."""
    assert dataclasses.is_dataclass(declaration)
    for field in dataclasses.fields(declaration):
        kinds = NUMBERS.get(str(field.type))
        value = getattr(declaration, field.name)
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise InvalidType(f"{type(declaration).__name__}({field.name}=) takes {field.type}; got {value!r}.")


def _given(declaration: Declaration) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    assert dataclasses.is_dataclass(declaration)
    given = {}
    for field in dataclasses.fields(declaration):
        value = getattr(declaration, field.name)
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        if value != default:
            given[_argument(field)] = value
    return given


def _argument(field: dataclasses.Field[Any]) -> str:
    """The constructor's name for a field: its own, unless the field says otherwise."""
    return field.metadata.get("argument", field.name)


def _encode(value: Any) -> Any:
    if isinstance(value, Declaration):
        return {"kind": type(value).__name__} | {name: _encode(item) for name, item in _given(value).items()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InvalidType(f"a declaration holds plain values and other declarations only; got {value!r}.")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or not dataclasses.is_dataclass(Declaration.kinds.get(kind)):
        known = ", ".join(sorted(name for name, cls in Declaration.kinds.items() if dataclasses.is_dataclass(cls)))
        raise InvalidValue(f"unknown kind of declaration {kind!r}; known are {known}.")
    cls = Declaration.kinds[kind]
    assert dataclasses.is_dataclass(cls)
    fields = {name: _decode(item) for name, item in value.items() if name != "kind"}
    unknown = sorted(set(fields) - {_argument(field) for field in dataclasses.fields(cls)})
    if unknown:
        raise InvalidValue(f"{kind} has no field {', '.join(unknown)}.")
    try:
        return cls(**fields)
    except TypeError as error:
        raise InvalidValue(f"{kind} cannot be made from {sorted(fields)}: {error}.") from error
