"""Memories that learn: fast weights that every token trains a little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import InvalidType, expect, expect_kind
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Control, Controls
from mnemos.memory.learner import GD, Learner
from mnemos.memory.objective import L2, Objective
from mnemos.memory.retention import Keep, Retention
from mnemos.memory.structure import Matrix, Structure
from mnemos.state import State


@dataclass(frozen=True)
class Memory(AnyMemory):
    """A memory stated by the four choices of Miras (arXiv 2504.13173).

        g_t = gradient at the learner's anchor of objective(M(k_t), v_t)
        S_t = momentum_t S_t-1 - rate_t g_t
        W_t = retention(W_t-1) + S_t
        o_t = M(q_t) at W_t                 (read_timing="after" writing; at W_t-1 with "before")

    structure: what holds the associations. objective: what it minimises on each pair. retention: how it forgets.
    learner: how it follows the gradient, and where the gradient is taken.

    Its state holds, per head, the fast weights (B, H, out, in) (or what the retention keeps in their place) and what
    the learner needs beside them: float32 (float64 for float64 inputs) whatever the model's dtype. A declaration
    holds no tensors.
    """

    structure: Structure = field(default_factory=Matrix)
    objective: Objective = field(default_factory=L2)
    retention: Retention = field(default_factory=Keep)
    learner: Learner = field(default_factory=GD)
    read_timing: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        expect_kind(self.structure, Structure, "structure", "Matrix() or MLP(depth=2)")
        expect_kind(self.objective, Objective, "objective", "L2() or Dot()")
        expect_kind(self.retention, Retention, "retention", 'Keep() or Decay(per="head")')
        expect_kind(self.learner, Learner, "learner", "GD(momentum=True)")
        expect(
            self.read_timing in ("after", "before"),
            f'Memory(read_timing=) is "after" or "before" the write; got {self.read_timing!r}.',
        )
        self.structure.check(self)
        self.learner.check(self)
        self.retention.check(self)
        names = [control.name for control in self.controls]
        twice = sorted({name for name in names if names.count(name) > 1})
        expect(not twice, f"two of the choices in {self} take a control of the same name: {', '.join(twice)}.")

    @property
    def write_controls(self) -> tuple[Control, ...]:
        return (*self.learner.controls, *self.retention.controls, *self.objective.controls)

    @property
    def pairs(self) -> int:
        return self.learner.pairs

    @property
    def kept(self) -> str:
        parts = [type(part).__name__ for part in (self.structure, self.objective, self.retention)]
        learner = [] if type(self.learner) is GD else [type(self.learner).__name__]
        momentum = ["momentum"] if getattr(self.learner, "momentum", False) else []
        return " + ".join([*parts, *learner, *momentum])

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        size = sum(o * i for o, i in self.structure.shapes(key_dim, value_dim).values())
        passes = 8 if self.structure.linear_in_weights else 10  # predict, pull back, write, decay, read
        return float(passes * size * self.pairs)

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        shapes = self.structure.shapes(key_dim, value_dim)
        self.retention.check_sizes(key_dim, value_dim)
        return dict(shapes) if self.structure.learned else {}

    def initial_weights(
        self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Starting values for the learned initial weights, each (H, out, in); empty if they are not learned."""
        return self.structure.initial(heads, key_dim, value_dim, generator) if self.structure.learned else {}

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
        """A state that has seen nothing.

        weights: the initial fast weights by name, each (H, out, in) (see `initial_weights`); a matrix may leave
        them out and starts at zero. Raises InvalidValue where they are missing, unknown or of another shape.
        """
        check_sizes(batch, heads, key_dim, value_dim)
        self.retention.check_sizes(key_dim, value_dim)
        shapes = self.structure.shapes(key_dim, value_dim)
        given = self._given_weights(weights, shapes, heads, key_dim, value_dim, dtype, device)
        held = {name: self.retention.unlink(weight[None]) for name, weight in given.items()}
        fresh = held | self.learner.fresh(held)
        # Copies: a step with gradients off works in place, and must not reach the learned weights.
        entries = {name: tensor.repeat(batch, *[1] * (tensor.ndim - 1)) for name, tensor in fresh.items()}
        return State(self.owner(heads, key_dim, value_dim), entries, fresh)

    def _given_weights(
        self,
        weights: Mapping[str, Tensor] | None,
        shapes: dict[str, tuple[int, int]],
        heads: int,
        key_dim: int,
        value_dim: int,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> dict[str, Tensor]:
        if not weights:
            expect(
                not self.structure.learned or self.structure.linear_in_weights,
                f"{type(self.structure).__name__} needs initial weights (a network of zeros cannot learn): pass "
                f"weights=memory.initial_weights(heads={heads}, key_dim={key_dim}, value_dim={value_dim}).",
            )
            return {n: torch.zeros(heads, *shape, dtype=dtype, device=device) for n, shape in shapes.items()}
        expect(
            set(weights) == set(shapes),
            f"weights= must name {sorted(shapes)}; got {sorted(weights)}.",
        )
        for name, weight in weights.items():
            if not isinstance(weight, Tensor) or not weight.is_floating_point():
                given = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
                raise InvalidType(f"weights[{name!r}] must be a floating point tensor; got {given}.")
            expected = (heads, *shapes[name])
            expect(
                tuple(weight.shape) == expected,
                f"weights[{name!r}] must have shape (heads, out, in) = {expected}; got {tuple(weight.shape)}.",
            )
        return {name: weights[name].to(dtype=dtype, device=device) for name in shapes}

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        """`step` for callers that have checked their inputs."""
        if self.read_timing == "before":
            out = self._read(state, q, {})
            return out, self._write(state, k, v, controls)
        after = self._write(state, k, v, controls)
        return self._read(after, q, {}), after

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        in_place = not torch.is_grad_enabled()
        dtype = self._dtype(state)
        k, v = (
            x.unflatten(-1, (self.pairs, -1)) if self.pairs > 1 else x[..., None, :] for x in (k.to(dtype), v.to(dtype))
        )
        controls = {name: value.to(dtype) for name, value in controls.items()}
        entries = self.learner.write(self, state, k, v, controls, in_place)
        if in_place:
            state.spend()
        return state.successor(**entries)

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        x = q.to(self._dtype(state))
        out = self.learner.read(self, state, x.transpose(1, 2) if several else x[..., None, :])
        return (out.transpose(1, 2) if several else out[..., 0, :]).to(q.dtype)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """M(x) at the state's weights, x (B, H, n, K) -> (B, H, n, V), unchecked."""
        return self.structure.forward(lambda name, h: h @ self.retention.link(state[name]).mT, x)

    def weight_names(self, k: Tensor, v: Tensor) -> list[str]:
        """The fast weights' names for keys and values of this size."""
        return list(self.structure.shapes(k.shape[-1], v.shape[-1]))

    def _dtype(self, state: State) -> torch.dtype:
        return state[next(iter(state.fresh))].dtype

    def __str__(self) -> str:
        timing = f", read_timing={self.read_timing!r}" if self.read_timing != "after" else ""
        return f"Memory({self.structure!r}, {self.objective!r}, {self.retention!r}, {self.learner!r}{timing})"

    def __repr__(self) -> str:
        return str(self)
