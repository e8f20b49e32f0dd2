"""Gradient descent, with or without momentum, and where its gradient is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.learner.base import Learner
from mnemos.state import State

if TYPE_CHECKING:
    from mnemos.memory.learning import Memory


@dataclass(frozen=True)
class Chunk(Declaration):
    """An anchor: gradients of `size` consecutive tokens are all taken at the state before the first of them.

    This is another function than the per-token rule for size > 1 (TTT and deep Titans define it so), which is why
    it belongs to the declaration. Chunks are counted from the start of the memory's life, so cutting a sequence
    anywhere changes nothing.
    """

    size: int = 16

    def __post_init__(self) -> None:
        expect(self.size >= 1, f"Chunk(size=) is a number of tokens of at least 1; got {self.size}.")


@dataclass(frozen=True)
class GD(Learner):
    """Gradient descent on each token's loss g_t = grad loss(M(k_t), v_t):

        S_t = momentum_t S_t-1 - rate_t g_t        (S_t = -rate_t g_t without momentum)
        W_t = retained(W_t-1) + S_t

    rate: a constant, or None for a control per token and head. momentum: a control per token and head, in [0, 1].
    anchor: the weights at which g_t is taken. "retained": after forgetting (Gated DeltaNet and the linear
    recurrences). "previous": W_t-1 as it was, before forgetting (Titans, Miras). Chunk(n): the state before
    the current chunk of n tokens (TTT, deep Titans).
    steps: pairs that a token brings along, learnt one after another with a rate each; forgetting comes before the
    first (DeltaProduct). k and v then hold `steps` keys and values, one behind the other in their last axis.
    """

    rate: float | None = None
    momentum: bool = False
    anchor: Literal["retained", "previous"] | Chunk = "retained"
    steps: int = 1

    def __post_init__(self) -> None:
        expect(
            self.anchor in ("retained", "previous") or isinstance(self.anchor, Chunk),
            f'GD(anchor=) is "retained", "previous" or Chunk(n); got {self.anchor!r}.',
        )
        expect(
            self.rate is None or (math.isfinite(self.rate) and self.rate >= 0),
            f"GD(rate=) is a number of at least 0, or None for a control per token; got {self.rate}.",
        )
        expect(self.steps >= 1, f"GD(steps=) is a number of pairs of at least 1; got {self.steps}.")
        expect(
            self.steps == 1 or (self.anchor == "retained" and not self.momentum),
            'GD(steps=) takes each pair\'s gradient where the pair before it led: use anchor="retained" and no '
            "momentum with it.",
        )

    @property
    def chunk(self) -> int:
        """Tokens that share one gradient point; 1 for the per-token anchors."""
        return self.anchor.size if isinstance(self.anchor, Chunk) else 1

    @property
    def anchored(self) -> bool:
        """Whether the state carries a gradient point of its own."""
        return self.chunk > 1

    @property
    def pairs(self) -> int:
        return self.steps

    @property
    def controls(self) -> tuple[Control, ...]:
        per = "head" if self.steps == 1 else "count"
        rate = Control("rate", per, 0.0, math.inf, "step size of the inner gradient step", self.steps)
        momentum = Control("momentum", "head", 0.0, 1.0, "share of the previous step that goes on")
        return (*([rate] if self.rate is None else []), *([momentum] if self.momentum else []))

    def fresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        entries: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if self.momentum:
                entries[f"momentum.{name}"] = torch.zeros_like(weight)
            if self.anchored:
                entries[f"anchor.{name}"] = weight
        if self.anchored:
            entries["phase"] = torch.zeros(1, dtype=torch.int64, device=next(iter(weights.values())).device)
        return entries

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        held = {name: state[name] for name in memory.weight_names(k, v)}
        if self.steps > 1:
            return self._several(memory, held, k, v, controls, in_place)
        retention, structure = memory.retention, memory.structure
        entries: dict[str, Tensor] = {}
        if self.anchored:
            phase = state["phase"]
            point = {n: _reopen(state[f"anchor.{n}"], w, phase == 0, in_place) for n, w in held.items()}
            entries |= {f"anchor.{name}": weight for name, weight in point.items()}
            entries["phase"] = (phase + 1) % self.chunk
        else:
            if self.anchor == "retained":
                held = {n: retention.retain(w, controls, in_place) for n, w in held.items()}
            point = held
        trace = structure.trace({n: retention.link(w) for n, w in point.items()}, k)
        slopes = trace.pullback(memory.objective.slope(trace.prediction, v, _beside_tokens(controls)))
        if self.anchor != "retained":
            held = {n: retention.retain(w, controls, in_place) for n, w in held.items()}

        rate = controls["rate"][..., None, None] if self.rate is None else self.rate
        for name, weight in held.items():
            scaled, read = (slopes[name] * -rate).mT, trace.inputs[name]  # one pair: their product is an outer one
            if in_place and not self.momentum and retention.scaling is not None:
                entries[name] = weight.addcmul_(scaled, read)
                continue
            if self.momentum:
                share, before = controls["momentum"][..., None, None], state[f"momentum.{name}"]
                step = before.mul_(share).addcmul_(scaled, read) if in_place else before * share + scaled @ read
                entries[f"momentum.{name}"] = step
            else:
                step = scaled @ read
            entries[name] = retention.combine(weight, step, controls, in_place)
        return entries

    def _several(
        self, memory: Memory, held: dict[str, Tensor], k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        retention = memory.retention
        held = {n: retention.retain(w, controls, in_place) for n, w in held.items()}
        for i in range(self.steps):
            rate = controls["rate"][..., i, None, None] if self.rate is None else self.rate
            trace = memory.structure.trace({n: retention.link(w) for n, w in held.items()}, k[:, :, i : i + 1])
            value = v[:, :, i : i + 1]
            slopes = trace.pullback(memory.objective.slope(trace.prediction, value, _beside_tokens(controls)))
            held = {
                n: retention.combine(w, (slopes[n] * -rate).mT @ trace.inputs[n], controls, in_place)
                for n, w in held.items()
            }
        return held


def _beside_tokens(controls: Controls) -> Controls:
    """Controls of one token, (B, H, ...), laid beside a prediction (B, H, 1, V)."""
    return {name: value.unsqueeze(2) for name, value in controls.items()}


def _reopen(anchor: Tensor, weight: Tensor, opens: Tensor, in_place: bool) -> Tensor:
    """The gradient point: the present weight in rows where a chunk opens, the old anchor elsewhere."""
    if not in_place:
        return torch.where(opens[:, None, None, None], weight, anchor)
    # Most steps open no chunk; copying the weights at each of them would cost more than the step.
    if torch.compiler.is_compiling() or bool(opens.any()):
        anchor.copy_(torch.where(opens[:, None, None, None], weight, anchor))
    return anchor
