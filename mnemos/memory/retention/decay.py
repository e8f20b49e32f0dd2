"""Exponential forgetting by a factor that each token brings along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mnemos.memory.declaration import expect
from mnemos.memory.protocol import Control, Controls
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
    def scaling(self) -> Literal["head", "channel"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.per

    @property
    def controls(self) -> tuple[Control, ...]:
        return (Control("decay", self.per, 0.0, 1.0, "retention factor that multiplies the state; 0 erases it"),)

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        decay = controls["decay"]
        if self.per == "head":
            factor = decay[..., None, None]
        else:
            factor = decay.repeat_interleave(state.shape[-1] // decay.shape[-1], dim=-1)[..., None, :]
        return state.mul_(factor) if in_place else state * factor
