"""The exact solution of the discounted least squares problem over everything seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.learner.base import Learner
from mnemos.state import State

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory


@dataclass(frozen=True)
class LeastSquares(Learner):
    """Locally optimal test-time training (MesaNet, arXiv 2506.05233; the mesa layer, arXiv 2309.05858):

        G_t = decay_t G_t-1 + rate_t v_t k_t^T        H_t = decay_t H_t-1 + rate_t k_t k_t^T
        M_t(q) = G_t (H_t + Diag(ridge_t))^-1 q

    M_t minimises sum_i z_ti |M k_i - v_i|^2 / 2 + tr(M Diag(ridge_t) M^T) / 2 over all pairs so far, where z_ti is
    rate_i times the decays after token i. rate: the weight of a token's pair. ridge: per key channel, at least 0.01;
    a layer that learns one per head gives every token the same.

    The state holds G as "matrix" (V, K), H as "gram" (K, K), and the newest token's "ridge" (K,), 1 at the start. It
    takes Matrix() and L2(), and forgets by one factor a head or not at all.
    """

    @property
    def controls(self) -> tuple[Control, ...]:
        return (
            Control("rate", "head", 0.0, math.inf, "weight of the token's pair in the sum of squares"),
            Control("ridge", "channel", 0.01, math.inf, "weight of the squared memory itself"),
        )

    def check(self, memory: Memory) -> None:
        structure = memory.structure
        expect(
            structure.linear_in_weights and not structure.learned,
            f"LeastSquares() solves for one matrix from nothing, but the structure is {structure}: use Matrix(), "
            "or GD() with this structure.",
        )
        expect(
            memory.objective.slope_kind == "identity" and not memory.objective.controls,
            f"LeastSquares() minimises a sum of squares, but the objective is {memory.objective}: use L2(), or GD() "
            "with this objective.",
        )
        expect(
            memory.retention.scaling in ("none", "head"),
            f"LeastSquares() discounts whole pairs, which {memory.retention} does not: use Keep() or "
            'Decay(per="head"), or GD() with this retention.',
        )

    def fresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        (weight,) = weights.values()
        size = weight.shape[-1]
        return {
            "gram": weight.new_zeros(*weight.shape[:-2], size, size),
            "ridge": weight.new_ones(*weight.shape[:-2], size),
        }

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        (name,) = memory.weight_names(k, v)
        entries = {"ridge": controls["ridge"].expand_as(state["ridge"]).contiguous()}
        for kept, left in ((name, v), ("gram", k)):
            held = memory.retention.retain(state[kept], controls, in_place)
            pair = (left * controls["rate"][..., None, None]).mT @ k
            entries[kept] = held.add_(pair) if in_place else held + pair
        return entries

    def read(self, memory: Memory, state: State, q: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(state["gram"] + torch.diag_embed(state["ridge"]))
        return torch.cholesky_solve(q.mT, factor).mT @ state["matrix"].mT
