"""Exponential forgetting by a factor that each token brings along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mnemos.memory.declaration import expect
from mnemos.memory.protocol import Control
from mnemos.memory.retention.base import Retention


@dataclass(frozen=True)
class Decay(Retention):
    """W -> W * decay, decay in [0, 1] (1 keeps everything, 0 erases).

    per="head": one factor a head (RetNet, Mamba-2, Gated DeltaNet, Titans). per="channel": one a key channel, which
    scales the *input* side of every fast weight (GLA, KDA): W -> W Diag(decay). Hidden unit i of an MLP memory with
    expansion e takes the factor of channel floor(i / e).
    """

    per: Literal["head", "channel"] = "head"

    def __post_init__(self) -> None:
        expect(self.per in ("head", "channel"), f'Decay(per=) is "head" or "channel"; got {self.per!r}.')

    @property
    def control(self) -> Control:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Control("decay", self.per, 0.0, 1.0, "retention factor that multiplies the state; 0 erases it")

    def retain(self, weight: Tensor, control: Tensor | None, in_place: bool = False) -> Tensor:
        assert control is not None
        if self.per == "head":
            factor = control[..., None, None]
        else:
            factor = control.repeat_interleave(weight.shape[-1] // control.shape[-1], dim=-1)[..., None, :]
        return weight.mul_(factor) if in_place else weight * factor
