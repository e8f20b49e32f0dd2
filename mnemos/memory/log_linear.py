"""Memories of many time scales at once: a matrix memory whose past is kept in buckets that double in size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mnemos.errors import expect, expect_kind
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Control, Controls
from mnemos.memory.learner import GD
from mnemos.memory.learning import Memory
from mnemos.memory.objective import Dot
from mnemos.memory.retention import Decay
from mnemos.memory.structure import Matrix
from mnemos.state import State


def _plain() -> Memory:
    return Memory(Matrix(), Dot(), Decay(), GD(rate=1.0))


@dataclass(frozen=True)
class LogLinear(AnyMemory):
    """Log-linear attention (arXiv 2506.04761): what a matrix memory holds, told apart by how long ago it was written.

    The tokens before and at t (counted from 0) lie in buckets of 1, 1, 2, 4, ... tokens, as in a Fenwick tree:
    token s is in the one of level bit_length(t xor s). With the base memory's transition A_t, its rate r_t and
    weights level_t >= 0 of the levels,

        S_l,t = sum over s in level l at t of r_s v_s k_s^T A_s+1 ... A_t        o_t = sum_l level_tl S_l,t q_t

    With all weights 1 this is the base memory itself. Token by token: where bit p is the lowest one set in t, the
    levels 0 .. p become level p + 1; then all levels take A_t, and r_t v_t k_t^T is written into level 0. At t, as many
    levels hold something as t has bits set, and one.

    memory: the base, a Matrix() that learns by Dot() or L2() and forgets by a factor per head or not at all. levels:
    how many; with n of them, the buckets are exact for 2^(n-1) tokens, and the last one then takes in all older ones.
    The weights come as the control "level", (B, T, H, levels).

    Its state: `matrix` (B, H, levels, V, K), `count` (B,), the tokens seen, and `level` (B, H, levels), the weights of
    the last one, by which `read` reads.
    """

    memory: Memory = field(default_factory=_plain)
    levels: int = 15

    def __post_init__(self) -> None:
        expect_kind(self.memory, Memory, "memory", "Memory(Matrix(), Dot(), Decay(), GD(rate=1.0))")
        expect(self.levels >= 1, f"LogLinear(levels=) is at least 1; got {self.levels}.")
        base, learner = self.memory, self.memory.learner
        expect(
            base.structure.linear_in_weights and not base.structure.learned,
            f"LogLinear(memory=) adds up matrices of single tokens: use Matrix(), not {base.structure}.",
        )
        expect(
            base.objective.slope_kind in ("constant", "identity") and not base.objective.controls,
            "LogLinear(memory=) needs a write that is linear in the state: use Dot() or L2(), not "
            f"{type(base.objective).__name__}.",
        )
        expect(
            base.retention.scaling in ("none", "head"),
            f'LogLinear(memory=) scales all levels by one factor a head: use Decay(per="head") or Keep(), not '
            f"{base.retention}.",
        )
        expect(
            type(learner) is GD and not learner.momentum and not learner.anchored and learner.steps == 1,
            "LogLinear(memory=) writes one pair a token, at its own gradient and without momentum: use GD(), not "
            f"{learner}.",
        )
        expect(
            base.read_timing == "after",
            'LogLinear(memory=) reads each token at its own levels, the token among them: use read_timing="after".',
        )

    @property
    def write_controls(self) -> tuple[Control, ...]:
        level = Control("level", "count", 0.0, math.inf, "weight of each level in the read", self.levels)
        return (*self.memory.controls, level)

    @property
    def kept(self) -> str:
        return f"{self.memory.kept} in {self.levels} levels of age"

    @property
    def corrects(self) -> bool:
        """Whether a write takes what the memory answers already into account (L2), or not (Dot)."""
        return self.memory.objective.slope_kind == "identity"

    def init(
        self,
        batch: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        weights: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """An empty memory. Raises InvalidValue if `weights` are given."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(
            not weights, f"a LogLinear memory starts from nothing and takes no weights; got {sorted(weights or {})}."
        )
        fresh = {
            "matrix": torch.zeros(1, heads, self.levels, value_dim, key_dim, dtype=dtype, device=device),
            "level": torch.ones(1, heads, self.levels, dtype=dtype, device=device),
            "count": torch.zeros(1, dtype=torch.int64, device=device),
        }
        entries = {name: tensor.repeat(batch, *[1] * (tensor.ndim - 1)) for name, tensor in fresh.items()}
        return State(self.owner(heads, key_dim, value_dim), entries, fresh)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        in_place = not torch.is_grad_enabled()
        held, count = state["matrix"], state["count"]
        k, v = k.to(held.dtype), v.to(held.dtype)
        now = {name: value.to(held.dtype) for name, value in controls.items()}
        learner: Any = self.memory.learner

        # The buckets that the new token closes become one: those below the level that the lowest bit of t points to.
        target = bit_length(count & -count, self.levels)[:, None]
        level = torch.arange(self.levels, device=held.device)
        closed, opened = ((x[:, None, :, None, None]).to(held.dtype) for x in (level < target, level == target))
        merged = (held * closed).sum(2, keepdim=True) * opened
        held = held.mul_(1 - closed).add_(merged) if in_place else held * (1 - closed) + merged

        rate = now["rate"][..., None] if learner.rate is None else learner.rate
        asked = held
        if "decay" in now:
            decay = now["decay"][..., None, None, None]
            if self.corrects and learner.anchor != "retained":
                asked = held.clone() if in_place else held
            held = held.mul_(decay) if in_place else held * decay
            if learner.anchor == "retained":
                asked = held
        step = torch.zeros_like(held[..., 0])  # (B, H, levels, V)
        if self.corrects:
            step = step - torch.einsum("bhlvk,bhk->bhlv", asked, k) * (
                rate[..., None] if learner.rate is None else rate
            )
        first = torch.nn.functional.one_hot(level.new_zeros(()), self.levels).to(held.dtype)
        step = step + (v * rate)[..., None, :] * first[:, None]
        step = step[..., None] * k[..., None, None, :]
        held = held.add_(step) if in_place else held + step
        if in_place:
            state.spend()
        return state.successor(matrix=held, level=now["level"], count=count + 1)

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        matrix = torch.einsum("bhlvk,bhl->bhvk", state["matrix"], state["level"])
        several = q.ndim == 4
        x = q.to(matrix.dtype)
        out = (x.transpose(1, 2) if several else x[..., None, :]) @ matrix.mT
        return (out.transpose(1, 2) if several else out[..., 0, :]).to(q.dtype)

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return float((11 if self.corrects else 9) * self.levels * key_dim * value_dim)


def bit_length(number: Tensor, levels: int) -> Tensor:
    """How many binary digits a number >= 0 has, at most levels - 1: (...) int64 -> (...) int64."""
    digits = torch.arange(levels - 1, device=number.device)
    return ((number[..., None] >> digits) > 0).sum(-1)
