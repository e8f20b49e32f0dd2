"""A transition that is diagonal plus low rank: forgetting channel by channel, and along one direction a token."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mnemos.memory.control import Control, Controls
from mnemos.memory.retention.base import Retention


@dataclass(frozen=True)
class DPLR(Retention):
    """W -> W Diag(decay) - (W removal) replacement^T, all three of (B, H, K) for every token.

    What W holds in the direction `removal` is read before the decay and written back, with its sign turned, in the
    direction `replacement`. RWKV-7 (arXiv 2503.14456) is Dot with removal = a unit vector u and replacement = a * u,
    a in [0, 1] per channel; with a decay of 1 the transition is identity plus low rank.

    decay must lie in [0, 1]; the two directions are any finite numbers, and whoever makes them keeps the transition
    from growing. Hidden unit i of an MLP memory with expansion e takes channel floor(i / e), both directions divided
    by sqrt(e), so that their lengths stay.
    """

    @property
    def controls(self) -> tuple[Control, ...]:
        return (
            Control("decay", "channel", 0.0, 1.0, "retention factor that multiplies the state; 0 erases it"),
            Control("removal", "channel", -math.inf, math.inf, "direction in which the state is read and erased"),
            Control("replacement", "channel", -math.inf, math.inf, "direction in which what was read is subtracted"),
        )

    def retain(self, state: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        times = state.shape[-1] // controls["decay"].shape[-1]
        decay, removal, replacement = (
            controls[name].repeat_interleave(times, dim=-1) for name in ("decay", "removal", "replacement")
        )
        read = state @ (removal / times)[..., None]
        kept = state.mul_(decay[..., None, :]) if in_place else state * decay[..., None, :]
        change = read * replacement[..., None, :]
        return kept.sub_(change) if in_place else kept - change
