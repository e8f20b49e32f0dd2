"""Mini-batch gradient descent whose steps count by the place of the reading token."""

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
class MiniBatch(Learner):
    """The inner loop of TTT (arXiv 2407.04620). With W the weights at the start of a mini-batch of `size` tokens,

        S_t = S_t-1 - rate_t grad loss(W; k_t, v_t)         (S = 0 where a mini-batch opens)
        W_t = W + scale_t S_t

    All gradients are taken at W, and scale_t, a control of the reading token, weighs the whole sum: W_t takes the
    mean step where it is one over the number of tokens so far. The next mini-batch starts from the last W_t. With
    scale_t = 1 this is GD(anchor=Chunk(size)).

    It keeps everything between mini-batches (Keep()), and reads after writing.
    """

    size: int = 16

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"MiniBatch(size=) is a number of tokens of at least 1; got {self.size}.")

    @property
    def chunk(self) -> int:
        """Tokens that share one gradient point."""
        return self.size

    @property
    def controls(self) -> tuple[Control, ...]:
        return (
            Control("rate", "head", 0.0, math.inf, "step size of the inner gradient step"),
            Control("scale", "head", 0.0, math.inf, "factor of all steps of the mini-batch so far"),
        )

    def check(self, memory: Memory) -> None:
        expect(
            memory.retention.scaling == "none",
            f"MiniBatch() keeps its weights between mini-batches, but the retention is {memory.retention}: use Keep(), "
            "or GD(anchor=Chunk(n)) with this retention.",
        )
        expect(
            memory.read_timing == "after",
            'MiniBatch() reads with the reading token\'s own scale: use read_timing="after", or GD(anchor=Chunk(n)).',
        )

    def fresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        entries = {f"anchor.{name}": weight for name, weight in weights.items()}
        entries |= {f"sum.{name}": torch.zeros_like(weight) for name, weight in weights.items()}
        entries["phase"] = torch.zeros(1, dtype=torch.int64, device=next(iter(weights.values())).device)
        return entries

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        names, phase = memory.weight_names(k, v), state["phase"]
        opens = (phase == 0)[:, None, None, None]
        anchor = {name: torch.where(opens, state[name], state[f"anchor.{name}"]) for name in names}
        trace = memory.structure.trace(anchor, k)
        beside = {name: value.unsqueeze(2) for name, value in controls.items()}
        slopes = trace.pullback(memory.objective.slope(trace.prediction, v, beside))
        rate, scale = (controls[name][..., None, None] for name in ("rate", "scale"))
        entries = {f"anchor.{name}": weight for name, weight in anchor.items()}
        for name in names:
            before = torch.where(opens, 0.0, state[f"sum.{name}"])
            total = before - (slopes[name] * rate).mT @ trace.inputs[name]
            now = anchor[name] + scale * total
            entries |= {f"sum.{name}": total, name: state[name].copy_(now) if in_place else now}
        entries["phase"] = (phase + 1) % self.size
        return entries
