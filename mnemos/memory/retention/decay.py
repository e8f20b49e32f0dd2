"""Exponential forgetting by a factor that each token brings along, real or complex."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.retention.base import Retention
from mnemos.memory.rotary import turn_pairs

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory

COMMUTING = {
    None: ("head", "channel", "value", "outer"),
    "key": ("head", "pair", "value"),
    "value": ("head", "pair", "channel"),
}
"""What a factor may be per, by the side that turns."""


@dataclass(frozen=True)
class Decay(Retention):
    """W -> W * decay, decay in [0, 1] (1 keeps everything, 0 erases).

    per="head": one factor a head (RetNet, Mamba-2, Gated DeltaNet, Titans). per="channel": one a key channel, which
    scales the *input* side of every fast weight (GLA, KDA): W -> W Diag(decay). Hidden unit i of an MLP memory with
    expansion e takes the factor of channel floor(i / e). per="value": one a value channel, W -> Diag(decay) W (RG-LRU,
    arXiv 2402.19427). per="outer": both, W -> Diag(value_decay) W Diag(decay).

    rotate: makes the factor complex, decay e^(i angle), by the control "angle", any number, one for each pair of the
    channels that turn. Channels (i, i + n/2) of the keys' side (rotate="key") or of the values' side
    (rotate="value") are the real and imaginary parts:

        W[v, i] + j W[v, i + K/2] -> decay e^(j angle_i) (W[v, i] + j W[v, i + K/2])       rotate="key"
        W[i, k] + j W[i + V/2, k] -> decay e^(j angle_i) (W[i, k] + j W[i + V/2, k])       rotate="value"

    (GateLoop, arXiv 2311.01927; RetNet is a constant angle.) There per="pair" is one factor for each pair that turns.
    A factor that differs within a pair would be no complex number, and is refused, as is anything but "head" and
    "channel" for a memory of several weights, whose hidden units are neither keys nor values.
    """

    per: Literal["head", "channel", "value", "outer", "pair"] = "head"
    rotate: Literal["key", "value"] | None = None

    def __post_init__(self) -> None:
        expect(
            self.per in ("head", "channel", "value", "outer", "pair"),
            f'Decay(per=) is "head", "channel", "value", "outer" or "pair"; got {self.per!r}.',
        )
        expect(self.rotate in COMMUTING, f'Decay(rotate=) is "key", "value" or None; got {self.rotate!r}.')
        expect(self.rotate is not None or self.per != "pair", 'Decay(per="pair") is for pairs that turn: set rotate=.')
        expect(
            self.per in COMMUTING[self.rotate],
            f"Decay(per={self.per!r}) differs within the pairs that rotate={self.rotate!r} turns; use "
            f'per="pair", one factor a pair.',
        )

    @property
    def scaling(self) -> Literal["head", "channel"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.per if self.rotate is None and self.per in ("head", "channel") else None

    @property
    def controls(self) -> tuple[Control, ...]:
        meaning = "retention factor that multiplies the state; 0 erases it"
        pair = "value_pair" if self.rotate == "value" else "pair"
        per = {"outer": "channel", "pair": pair}.get(self.per, self.per)
        return (
            Control("decay", per, 0.0, 1.0, meaning),  # pyright: ignore[reportArgumentType]
            *([Control("value_decay", "value", 0.0, 1.0, meaning)] if self.per == "outer" else []),
            *([Control("angle", pair, -math.inf, math.inf, "by which pairs turn")] if self.rotate else []),
        )

    def check(self, memory: Memory) -> None:
        expect(
            self.scaling is not None or memory.structure.linear_in_weights,
            f"{self} scales or turns keys' and values' channels, but the hidden units of "
            f'{type(memory.structure).__name__} are neither: use Matrix(), or Decay(per="head") or per="channel".',
        )

    def check_sizes(self, key_dim: int, value_dim: int) -> None:
        size = {"key": key_dim, "value": value_dim, None: 0}[self.rotate]
        expect(size % 2 == 0, f"{self} turns pairs of channels, so {self.rotate}_dim must be even; got {size}.")

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        decay = controls["decay"]
        if self.per == "pair":
            decay = torch.cat([decay, decay], -1)
        on_values = self.per == "value" or (self.per == "pair" and self.rotate == "value")
        if self.per == "head":
            factor = decay[..., None, None]
        elif on_values:
            factor = decay[..., None]
        else:
            factor = decay.repeat_interleave(state.shape[-1] // decay.shape[-1], dim=-1)[..., None, :]
        kept = state.mul_(factor) if in_place else state * factor
        if self.per == "outer":
            values = controls["value_decay"][..., None]
            kept = kept.mul_(values) if in_place else kept * values
        if self.rotate is None:
            return kept
        return turn_weight(kept, controls["angle"], self.rotate)


def turn_weight(weight: Tensor, angles: Tensor, side: Literal["key", "value"]) -> Tensor:
    """weight (..., V, K) with the pairs of one side turned by angles (..., K/2) or (..., V/2)."""
    if side == "key":
        return turn_pairs(weight, angles[..., None, :])
    return turn_pairs(weight.mT, angles[..., None, :]).mT.contiguous()
