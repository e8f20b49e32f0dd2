"""What every measurement returns: a frozen dataclass that goes to JSON and comes back equal."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Self, cast

from mnemos.errors import DataError


class Result:
    """Base of the frozen dataclasses of this room; it only adds `to_json` and `from_json`."""

    def to_json(self) -> str:
        """The result as indented JSON text."""
        return json.dumps(asdict(cast(Any, self)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The result that `to_json` wrote.

        Raises:
            DataError: the text is not the JSON of this class.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"This JSON text is not a {cls.__name__}: {error.errors()[0]['msg']} (at "
                f"{'.'.join(map(str, error.errors()[0]['loc'])) or 'the top'}). Give the text that "
                f"{cls.__name__}.to_json() wrote."
            ) from error
