"""Memories of products of prefix sums: linear attention of the second and third order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Control, Controls
from mnemos.state import State

ENTRIES = {
    "second": ("key_sum", "query_sum", "late_sum"),
    "asymmetric": ("value_sum", "nested_sum"),
    "third": ("key_sum", "value_sum", "nested_sum"),
}


@dataclass(frozen=True)
class HigherOrder(AnyMemory):
    """Higher-order linear attention (arXiv 2510.27258): what a query finds is asked again.

    With W_ts = D_ts (q_t . k_s) and D_ts = prod_{s < i <= t} decay_i for s <= t, 0 otherwise, as matrices over time:

        "second":     o_t = sum_{i <= j <= t} D_ti D_tj (q_t . k_i)(k_i . q_j) v_j
                      without decay ((W W^T) * L) V, L the causal mask
        "asymmetric": o = W W V
        "third":      o_t = sum_{j <= t} sum_{i, l <= j} D_tj D_ji D_jl (q_t . k_i)(k_i . q_j)(q_j . k_l) v_l
                      without decay (((W W^T) * L) W) V

    It is run by sums over the past, exactly: "second" keeps S = sum k k^T (K, K), C = sum q v^T (K, V) and what of
    S C came too late, G (K, V), with o = q^T (S C - G); "asymmetric" keeps P = sum k v^T (K, V) and
    E = sum k (q^T P) (K, V), o = q^T E; "third" keeps S, P and H = sum (S q)(q^T P) (K, V), o = q^T H.

    A token also writes its query, which is the control "query" (B, T, H, K); a layer passes the one it reads with.
    decay: whether there is a control "decay" per head, in [0, 1].

    The normalised form divides by what the same sums make of values of 1: `LayerSpec(norm="sum")`.
    """

    form: Literal["second", "asymmetric", "third"] = "second"
    decay: bool = False

    def __post_init__(self) -> None:
        expect(
            self.form in ENTRIES,
            f'HigherOrder(form=) is "second", "asymmetric" or "third"; got {self.form!r}.',
        )

    @property
    def write_controls(self) -> tuple[Control, ...]:
        query = Control("query", "channel", -math.inf, math.inf, "query that is written beside the key", tied="query")
        decay = Control("decay", "head", 0.0, 1.0, "retention factor that multiplies the sums; 0 erases them")
        return (query, decay) if self.decay else (query,)

    @property
    def kept(self) -> str:
        return f"sums of products, {self.form}" + (", decaying" if self.decay else "")

    def shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, int]]:
        """The sums by name."""
        return {n: (key_dim, key_dim if n == "key_sum" else value_dim) for n in ENTRIES[self.form]}

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 6.0 * sum(rows * columns for rows, columns in self.shapes(key_dim, value_dim).values())

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
        """Sums of nothing. Raises InvalidValue for any weights."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a higher-order memory starts at zero and takes no weights.")
        shapes = self.shapes(key_dim, value_dim)
        fresh = {n: torch.zeros(1, heads, *s, dtype=dtype, device=device) for n, s in shapes.items()}
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        in_place = not torch.is_grad_enabled()
        dtype = state[ENTRIES[self.form][0]].dtype
        k, v, asked = (x.to(dtype)[..., None, :] for x in (k, v, controls["query"]))  # rows (B, H, 1, channels)
        held = {n: state[n] for n in ENTRIES[self.form]}
        if self.decay:
            factor = controls["decay"].to(dtype)[..., None, None]
            powers = {n: factor * factor if n == "late_sum" else factor for n in held}
            held = {n: x.mul_(powers[n]) if in_place else x * powers[n] for n, x in held.items()}
        if in_place:
            state.spend()

        def add(name: str, new: Tensor) -> None:
            held[name] = held[name].add_(new) if in_place else held[name] + new

        if self.form == "second":
            add("late_sum", k.mT @ (k @ held["query_sum"]))  # keys of now with queries of before
            add("key_sum", k.mT @ k)
            add("query_sum", asked.mT @ v)
            return state.successor(**held)
        add("value_sum", k.mT @ v)
        found = k
        if self.form == "third":
            add("key_sum", k.mT @ k)
            found = (held["key_sum"] @ asked.mT).mT
        add("nested_sum", found.mT @ (asked @ held["value_sum"]))
        return state.successor(**held)

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        x = q.to(state[ENTRIES[self.form][0]].dtype)
        x = x.transpose(1, 2) if several else x[..., None, :]
        if self.form == "second":
            out = x @ state["key_sum"] @ state["query_sum"] - x @ state["late_sum"]
        else:
            out = x @ state["nested_sum"]
        return (out.transpose(1, 2) if several else out[..., 0, :]).to(q.dtype)

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)
