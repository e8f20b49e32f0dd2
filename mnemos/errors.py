"""Every error that a person can cause.

All derive from `MnemosError`; those that Python would call a `ValueError` or a `TypeError` derive from that too, so
`except ValueError` keeps working. Messages state the fact, the place, what was given and expected, and the remedy.
"""

from __future__ import annotations


class MnemosError(Exception):
    """The root of every error that a user of mnemos can cause."""


class InvalidValue(MnemosError, ValueError):
    """A value outside its range, a wrong shape, an unknown name."""


class InvalidType(MnemosError, TypeError):
    """A value of the wrong Python type or a tensor of the wrong dtype."""


class StateError(InvalidValue):
    """A state used where it does not belong: another owner, width or batch, or one that was already moved on."""


class PlanError(InvalidValue):
    """A plan was asked for by name that cannot run this memory."""


class DataError(InvalidValue):
    """Training or evaluation data that cannot be read or is unfit."""


class RunError(InvalidValue):
    """A run's folder, checkpoint or configuration that cannot be used as asked."""


class Diverged(MnemosError, ArithmeticError):
    """Numbers that are no longer finite.

    row, token, layer, heads: where they first appeared, as far as that is known; layers, heads, tokens and rows count
    from 0.
    """

    def __init__(
        self,
        message: str,
        *,
        row: int | None = None,
        token: int | None = None,
        layer: int | None = None,
        heads: tuple[int, ...] = (),
    ):
        super().__init__(message)
        self.row, self.token, self.layer, self.heads = row, token, layer, heads


def expect(condition: bool, message: str) -> None:
    """Raises InvalidValue with `message` unless `condition`."""
    if not condition:
        raise InvalidValue(message)


def expect_kind(value: object, kind: type, field: str, example: str) -> None:
    """Raises InvalidType unless `value` is of `kind`."""
    if not isinstance(value, kind):
        given = f"the class {value.__name__} itself" if isinstance(value, type) else repr(value)
        raise InvalidType(f"{field}= takes a {kind.__name__}, for example {example}; got {given}.")
