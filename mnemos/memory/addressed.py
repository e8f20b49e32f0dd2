"""Rows that are found by what they hold and by where they stand: the memory of a neural Turing machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import InvalidType, expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Control, Controls
from mnemos.state import State

START = 1e-6
"""What the rows hold at first unless they are given."""

SHORTEST = 1e-6
"""The length that shorter vectors count as in a cosine."""


@dataclass(frozen=True)
class Addressed(AnyMemory):
    """The memory of neural Turing machines (arXiv 1410.5401): rows M_1 ... M_N, a head that writes and one that reads.
    A head looks at the rows with weights w, which follow from its key, its controls and where it looked before:

        c_i = softmax_i(strength cos(key, M_i))                 by content
        g = gate c + (1 - gate) w                               or as before
        s_i = sum_d shift_d g_(i - d mod N)                     moved on, d from -shifts to shifts
        w_i = s_i^sharpness / sum_j s_j^sharpness               and sharpened

        writing k, v:  M_i <- M_i * (1 - w_i erase) + w_i v         reading q:  o = sum_i w_i M_i

    Keys and values are as wide as the rows. Both heads look at row 1 at first. The controls are named `write_strength`,
    `read_strength` and so on; strengths are at least 0, gates in [0, 1], sharpnesses at least 1, shifts 2 shifts + 1
    numbers in [0, 1] whose sum does not matter, erase in [0, 1] for each channel of a row.

    slots: N. shifts: rows that a head can move by at once. read_timing: "before" writing (as in published code), or
    "after".

    Its state: `rows` (B, H, N, W), `write_weights` and `read_weights` (B, H, N). What the rows hold at first is
    learned. `read` asks without moving the head.
    """

    slots: int = 128
    shifts: int = 1
    read_timing: Literal["after", "before"] = "before"

    def __post_init__(self) -> None:
        expect(self.slots >= 1, f"Addressed(slots=) is a number of rows of at least 1; got {self.slots}.")
        expect(self.shifts >= 0, f"Addressed(shifts=) is a number of rows of at least 0; got {self.shifts}.")
        expect(
            self.read_timing in ("after", "before"),
            f'Addressed(read_timing=) is "after" or "before" the write; got {self.read_timing!r}.',
        )

    @property
    def write_controls(self) -> tuple[Control, ...]:
        return (*self._head("write"), Control("erase", "value", 0.0, 1.0, "share of a row's channel that is erased"))

    @property
    def read_controls(self) -> tuple[Control, ...]:
        return self._head("read")

    def _head(self, name: str) -> tuple[Control, ...]:
        return (
            Control(f"{name}_strength", "head", 0.0, math.inf, "how sharply rows are told apart by content"),
            Control(f"{name}_gate", "head", 0.0, 1.0, "1 to look by content, 0 where the head looked before"),
            Control(f"{name}_shift", "count", 0.0, 1.0, "weights of moving by so many rows", 2 * self.shifts + 1),
            Control(f"{name}_sharpness", "head", 1.0, math.inf, "power that sharpens the weights"),
        )

    @property
    def kept(self) -> str:
        return f"{self.slots} rows and where the heads looked"

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        expect(
            key_dim == value_dim,
            f"keys are compared with rows, so key_dim and value_dim are the same; got {key_dim} and {value_dim}.",
        )
        return {"rows": (self.slots, value_dim)}

    def initial_weights(
        self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Rows (H, N, W), uniform up to 1/sqrt(N + W) either way."""
        shapes = self.weight_shapes(key_dim, value_dim)
        bound = (self.slots + value_dim) ** -0.5
        return {"rows": bound * (2 * torch.rand(heads, *shapes["rows"], generator=generator) - 1)}

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        heads = 2.0 * self.slots * (4 * key_dim + 2 * (2 * self.shifts + 1))
        return heads + 6.0 * self.slots * value_dim

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
        """A state that has seen nothing. weights: {"rows": (H, N, W)}; without them all rows hold 1e-6. Raises
        InvalidValue or InvalidType for other weights."""
        check_sizes(batch, heads, key_dim, value_dim)
        shape = (heads, *self.weight_shapes(key_dim, value_dim)["rows"])
        rows = torch.full(shape, START, dtype=dtype, device=device)
        if weights:
            expect(set(weights) == {"rows"}, f"weights= must name ['rows']; got {sorted(weights)}.")
            rows = weights["rows"]
            if not isinstance(rows, Tensor) or not rows.is_floating_point():
                given = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
                raise InvalidType(f"weights['rows'] must be a floating point tensor; got {given}.")
            expect(
                tuple(rows.shape) == shape,
                f"weights['rows'] must have shape (heads, slots, width) = {shape}; got {tuple(rows.shape)}.",
            )
            rows = rows.to(dtype=dtype, device=device)
        first = torch.zeros(1, heads, self.slots, dtype=dtype, device=device)
        first[..., 0] = 1
        fresh = {"rows": rows[None], "write_weights": first, "read_weights": first}
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        asked = {name: value[:, None] for name, value in controls.items() if name.startswith("read")}
        before = self.read_timing == "before"
        after = None if before else self._write(state, k, v, controls)
        out, weights = self._found(state if after is None else after, q[:, None], asked)
        if after is None:
            after = self._write(state, k, v, controls)
        return out[:, 0], after.successor(**after.entries | {"read_weights": weights[:, :, 0]})

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        rows, dtype = state["rows"], state["rows"].dtype
        head = {name: value[:, None] for name, value in controls.items() if name.startswith("write")}
        weights = self.address("write", rows, state["write_weights"], k[:, None], head)[:, :, 0]
        at = weights[..., None]
        kept = rows * (1 - at * controls["erase"].to(dtype)[:, :, None])
        after = state.successor(
            rows=kept + at * v.to(dtype)[:, :, None], write_weights=weights, read_weights=state["read_weights"]
        )
        if not torch.is_grad_enabled():
            state.spend()
        return after

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        if not several:
            q, controls = q[:, None], {name: value[:, None] for name, value in controls.items()}
        out, _ = self._found(state, q, controls)
        return out if several else out[:, 0]

    def _found(self, state: State, q: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
        """Answers (B, n, H, W) to q (B, n, H, W), and the weights (B, H, n, N)."""
        weights = self.address("read", state["rows"], state["read_weights"], q, controls)
        return (weights @ state["rows"]).transpose(1, 2).to(q.dtype), weights

    def address(
        self, head: Literal["write", "read"], rows: Tensor, before: Tensor, keys: Tensor, controls: Controls
    ) -> Tensor:
        """Where a head that looked at `rows` (B, H, N, W) with weights `before` (B, H, N) looks for `keys`
        (B, n, H, W), its controls (B, n, H) or (B, n, H, 2 shifts + 1) by name: weights (B, H, n, N)."""
        given = (controls[f"{head}_{name}"].to(rows.dtype) for name in ("strength", "gate", "shift", "sharpness"))
        strength, gate, shift, sharpness = (x.transpose(1, 2) for x in given)
        unit_keys, unit_rows = (F.normalize(x, dim=-1, eps=SHORTEST) for x in (keys.to(rows.dtype), rows))
        content = torch.softmax(strength[..., None] * (unit_keys.transpose(1, 2) @ unit_rows.mT), -1)
        looked = gate[..., None] * content + (1 - gate[..., None]) * before[:, :, None]
        moves = range(-self.shifts, self.shifts + 1)
        moved = sum(shift[..., i, None] * looked.roll(d, -1) for i, d in enumerate(moves))
        assert isinstance(moved, Tensor)
        tiny = torch.finfo(rows.dtype).tiny
        largest = moved.detach().amax(-1, keepdim=True).clamp(min=tiny)  # a common factor makes no difference
        sharp = (moved / largest) ** sharpness[..., None]
        return sharp / sharp.sum(-1, keepdim=True).clamp(min=tiny)

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)
