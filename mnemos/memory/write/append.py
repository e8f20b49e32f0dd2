"""Take up every token's key and value as they come."""

from __future__ import annotations

from dataclasses import dataclass

from mnemos.declaration import Declaration


@dataclass(frozen=True)
class Append(Declaration):
    """Every token adds one entry (k_t, v_t)."""
