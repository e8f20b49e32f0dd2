"""Forget nothing."""

from __future__ import annotations

from dataclasses import dataclass

from mnemos.memory.retention.base import Retention


@dataclass(frozen=True)
class Keep(Retention):
    """The weights stay as they are (linear attention, DeltaNet, TTT)."""

    scaling = "none"
