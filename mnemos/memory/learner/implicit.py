"""The implicit (proximal) gradient step: the best compromise between the memory so far and the token's pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.learner.base import Learner
from mnemos.state import State

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory


@dataclass(frozen=True)
class Implicit(Learner):
    """Online learning in closed form (Longhorn, arXiv 2407.14207), W' being what the retention leaves of W_t-1:

        W_t = argmin_W |W - W'|^2 + rate_t |W k_t - v_t|^2
            = W' - D_t (W' k_t - v_t) k_t^T             D_t = rate_t / (1 + rate_t |k_t|^2)

    Stable for every rate and every key: D_t |k_t|^2 < 1.
    diagonal: a rate a value channel instead of one a head, and of k k^T its diagonal only, as the published model has
    it: W_t[d, n] = (1 - D_td k_tn^2) W'[d, n] + D_td v_td k_tn. Every element of W is then a recurrence of its own.

    It takes a structure of one matrix, L2(), and a retention that scales.
    """

    diagonal: bool = False

    @property
    def controls(self) -> tuple[Control, ...]:
        per = "value" if self.diagonal else "head"
        return (Control("rate", per, 0.0, math.inf, "weight of the token's pair against the memory so far"),)

    def check(self, memory: Memory) -> None:
        expect(
            memory.structure.linear_in_weights,
            f"Implicit() has its closed form for one matrix, but the structure is {memory.structure}: use Matrix(), "
            "or GD() with this structure.",
        )
        expect(
            memory.objective.slope_kind == "identity" and not memory.objective.controls,
            f"Implicit() has its closed form for squared errors, but the objective is {memory.objective}: use L2(), "
            "or GD() with this objective.",
        )
        expect(
            memory.retention.scaling is not None,
            f"Implicit() stays near the scaled weights, but {memory.retention} does more than scale: use Keep() or "
            "Decay(), or GD() with this retention.",
        )

    def step(self, k: Tensor, controls: Controls) -> Tensor:
        """D (..., 1), or (..., V) where it is diagonal, for keys (..., K)."""
        rate = controls["rate"] if self.diagonal else controls["rate"][..., None]
        return rate / (1 + rate * k.square().sum(-1, keepdim=True))

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        (name,) = memory.weight_names(k, v)
        held = memory.retention.retain(state[name], controls, in_place)
        step = self.step(k[:, :, 0], controls)[..., None]
        if self.diagonal:
            change = step * k * (k * held - v.mT)
        else:
            change = step * (held @ k.mT - v.mT) @ k
        return {name: held.sub_(change) if in_place else held - change}
