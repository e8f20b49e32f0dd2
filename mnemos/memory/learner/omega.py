"""Gradient descent on a window of pairs at a time, with or without momentum and its orthogonalisation."""

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

QUINTIC = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Omega(Learner):
    """The Omega rule (Atlas, arXiv 2505.23735): every token learns the last `window` pairs again, all of them at the
    weights before it:

        g_t = sum_i window_ti grad loss(M(k_t-i), v_t-i) at W_t-1,   i = 0 .. window - 1
        S_t = momentum_t S_t-1 - rate_t g_t        (S_t = -rate_t g_t without momentum)
        W_t = retained(W_t-1) + S_t

    and with `muon`, the number of Newton-Schulz iterations (5 in the paper),

        S_t = momentum_t S_t-1 - g_t,              W_t = retained(W_t-1) + rate_t orthogonal(S_t).

    The control "window" (B, T, H, window) in [0, 1] weighs the pairs, the token's own first. rate: a constant, or None
    for a control per token and head. momentum: a control per token and head, in [0, 1]. Pairs from before the start of
    the memory's life do not count.

    The state holds the last window - 1 keys and values, the newest last, and how many of them there are.
    """

    window: int = 4
    rate: float | None = None
    momentum: bool = False
    muon: int = 0

    def __post_init__(self) -> None:
        expect(self.window >= 1, f"Omega(window=) is a number of pairs of at least 1; got {self.window}.")
        expect(
            self.rate is None or (math.isfinite(self.rate) and self.rate >= 0),
            f"Omega(rate=) is a number of at least 0, or None for a control per token; got {self.rate}.",
        )
        expect(self.muon >= 0, f"Omega(muon=) is a number of iterations, or 0 for none; got {self.muon}.")

    @property
    def chunk(self) -> int:
        """Pairs whose steps from one gradient point add up."""
        return 1 if self.muon else self.window

    @property
    def controls(self) -> tuple[Control, ...]:
        rate = Control("rate", "head", 0.0, math.inf, "step size of the inner gradient step")
        momentum = Control("momentum", "head", 0.0, 1.0, "share of the previous step that goes on")
        window = Control("window", "count", 0.0, 1.0, "weights of the last pairs, the newest first", self.window)
        return (*([rate] if self.rate is None else []), *([momentum] if self.momentum else []), window)

    def check(self, memory: Memory) -> None:
        expect(
            not memory.objective.controls,
            f"Omega() keeps pairs, but not the controls that {memory.objective} takes with each of them: use an "
            "objective with constants, or GD() with this one.",
        )

    def fresh(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = list(weights.values())
        entries = {f"momentum.{n}": torch.zeros_like(w) for n, w in weights.items()} if self.momentum else {}
        if self.window == 1:
            return entries
        one, heads, places = 1, held[0].shape[1], self.window - 1
        return entries | {
            "window.keys": held[0].new_zeros(one, heads, places, held[0].shape[-1]),
            "window.values": held[-1].new_zeros(one, heads, places, held[-1].shape[-2]),
            "window.count": torch.zeros(one, dtype=torch.int64, device=held[0].device),
        }

    def write(
        self, memory: Memory, state: State, k: Tensor, v: Tensor, controls: Controls, in_place: bool
    ) -> dict[str, Tensor]:
        entries: dict[str, Tensor] = {}
        weights = controls["window"].flip(-1)[..., None]  # (B, H, window, 1), the newest last, as the pairs are kept
        if self.window > 1:
            k, v = torch.cat([state["window.keys"], k], 2), torch.cat([state["window.values"], v], 2)
            count = state["window.count"]
            age = torch.arange(self.window - 1, -1, -1, device=k.device)
            weights = torch.where((age <= count[:, None])[:, None, :, None], weights, 0.0)
            # Copies: a slice would keep the whole window alive.
            entries["window.keys"], entries["window.values"] = k[:, :, 1:].clone(), v[:, :, 1:].clone()
            entries["window.count"] = (count + 1).clamp(max=self.window - 1)

        retention = memory.retention
        held = {name: state[name] for name in memory.weight_names(k, v)}
        trace = memory.structure.trace({n: retention.link(w) for n, w in held.items()}, k)
        slopes = trace.pullback(memory.objective.slope(trace.prediction, v, {}))
        held = {n: retention.retain(w, controls, in_place) for n, w in held.items()}
        rate = controls["rate"][..., None, None] if self.rate is None else self.rate
        for name, weight in held.items():
            pushed = (slopes[name] * -(weights if self.muon else weights * rate)).mT @ trace.inputs[name]
            if self.momentum:
                before, share = state[f"momentum.{name}"], controls["momentum"][..., None, None]
                pushed = before.mul_(share).add_(pushed) if in_place else before * share + pushed
                entries[f"momentum.{name}"] = pushed
            step = orthogonal(pushed, self.muon) * rate if self.muon else pushed
            entries[name] = retention.combine(weight, step, controls, in_place)
        return entries


def orthogonal(x: Tensor, iterations: int) -> Tensor:
    """The matrix nearest to x with orthogonal rows or columns, roughly: its singular values, whatever they were (but
    for tiny ones), come to lie between 0.68 and 1.13 (Newton-Schulz as in Muon). x (..., out, in); zero stays zero.

        X = x / |x|,  then so many times  A = X X^T,  X <- 3.4445 X - 4.7750 A X + 2.0315 A A X
    """
    first, second, third = QUINTIC
    wide = x if x.shape[-2] <= x.shape[-1] else x.mT
    wide = wide * (wide.square().sum((-2, -1), keepdim=True) + 1e-12).rsqrt()
    for _ in range(iterations):
        square = wide @ wide.mT
        wide = first * wide + (second * square + third * square @ square) @ wide
    return wide if x.shape[-2] <= x.shape[-1] else wide.mT
