"""Forget nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.retention.base import Retention


@dataclass(frozen=True)
class Keep(Retention):
    """The weights stay as they are (linear attention, DeltaNet, TTT)."""

    def retain(self, weight: Tensor, control: Tensor | None, in_place: bool = False) -> Tensor:
        return weight
