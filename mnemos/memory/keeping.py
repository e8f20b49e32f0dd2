"""Memories that keep: keys and values themselves, and a rule for which of them stay and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemos.errors import expect_kind
from mnemos.memory.base import AnyMemory
from mnemos.memory.control import Control, Controls
from mnemos.memory.heads import respond
from mnemos.memory.patterns import Patterns
from mnemos.memory.places import (
    append,
    check_start,
    evict,
    observed,
    put_in_ring,
    put_in_table,
    statistics_dtype,
    vacant,
)
from mnemos.memory.read import Read, Softmax
from mnemos.memory.retain import Everything, Policy, Retain, Window
from mnemos.memory.rotary import rotate
from mnemos.memory.write import Append
from mnemos.state import State


@dataclass(frozen=True, init=False)
class KVMemory(AnyMemory):
    """A memory of entries (k_j, v_j): what is written, what is retained, how it is read.

        after token t: entries = retain(entries + write(k_t, v_t));  o_t = read(q_t, entries)

    Its state holds keys (B, N, H, K) (already turned to their rotary positions), values (B, N, H, V), `slot` (B, N):
    position + 1, or 0 where a place is empty, and `count` (B,): tokens seen. N grows with `Everything` and is the
    constant size + sinks with `Window`, whose recent entries form a ring. A `Policy` lets each head keep entries of
    its own: there the axes are (B, H, N), and each statistic has its tensor. Queries may have a multiple of the heads
    of the keys (grouped heads). What the read rule stores with the entries stands behind their values. `read` asks
    from the position of the newest entry; an empty memory answers zero. It changes nothing, while `step` and whole runs
    let a policy see what was read.
    """

    # `write` and `read` are also the verbs of every memory, so the fields bear other names than the arguments.
    write_rule: Append = field(default_factory=Append, metadata={"argument": "write"})
    retain: Retain = field(default_factory=Everything)
    read_rule: Read = field(default_factory=Softmax, metadata={"argument": "read"})
    grouped = True

    def __init__(self, write: Append | None = None, retain: Retain | None = None, read: Read | None = None) -> None:
        object.__setattr__(self, "write_rule", Append() if write is None else write)
        object.__setattr__(self, "retain", Everything() if retain is None else retain)
        object.__setattr__(self, "read_rule", Softmax() if read is None else read)
        expect_kind(self.write_rule, Append, "write", "Append()")
        expect_kind(self.retain, Retain, "retain", "Everything() or Window(256)")
        expect_kind(self.read_rule, Read, "read", "Softmax(rotary=10000.0)")

    @property
    def write_controls(self) -> tuple[Control, ...]:
        return self.read_rule.stored

    @property
    def read_controls(self) -> tuple[Control, ...]:
        return self.read_rule.controls

    @property
    def differentiable(self) -> bool:
        return self.read_rule.differentiable

    @property
    def patterns(self) -> Patterns:
        return self.read_rule.patterns

    @property
    def kept(self) -> str:
        places = self.retain.capacity
        return "all keys and values" if places is None else f"{places} keys and values"

    @property
    def growing(self) -> Mapping[str, int]:
        return {"keys": 1, "values": 1, "slot": 1} if self.retain.capacity is None else {}

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        self.read_rule.check_sizes(key_dim, value_dim)
        return {}

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return (self.retain.capacity or context) * self.read_rule.pair_flops(key_dim, value_dim)

    @property
    def stored_width(self) -> int:
        """Channels that an entry has behind its value, for what the read rule stores with it."""
        return sum(control.count or 1 for control in self.write_controls)

    def packed(self, v: Tensor, controls: Controls) -> Tensor:
        """Values (..., H, V) with what the read rule stores with them behind, (..., H, V + stored_width)."""
        further = [controls[c.name] if c.count else controls[c.name][..., None] for c in self.write_controls]
        return torch.cat([v, *(x.to(v.dtype) for x in further)], -1) if further else v

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
        """An empty state; `heads` counts the heads of keys and values. Raises InvalidValue for any weights."""
        check_start("a key-value memory", batch, heads, key_dim, value_dim, weights, self.read_rule.rotary)
        self.read_rule.check_sizes(key_dim, value_dim)
        policy = isinstance(self.retain, Policy)
        places = (self.retain.capacity or 0) + policy  # one more: the new entry is there before an old one goes
        fresh = vacant(places, heads, key_dim, value_dim + self.stored_width, dtype, device, apart=policy)
        fresh["count"] = torch.zeros(1, dtype=torch.int64, device=device)
        if isinstance(self.retain, Policy):
            own = {"dtype": statistics_dtype(dtype), "device": device}
            fresh |= {f"statistic.{n}": torch.zeros(1, heads, places, **own) for n in self.retain.statistics}
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the entries: that of the inputs."""
        return dtype

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        after = self._write(state, k, v, controls)
        asked = {control.name: controls[control.name][:, None] for control in self.read_controls}
        out, weights = self._respond(after, q[:, None], asked)
        if isinstance(self.retain, Policy):
            after = observed(self.retain, after, over_group(self.retain, weights, 1)[:, :, 0])
        return out[:, 0], after

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        k, v = k.to(state["keys"].dtype), self.packed(v, controls).to(state["values"].dtype)
        if self.read_rule.rotary is not None:
            k = rotate(k[:, None], state["count"][:, None], self.read_rule.rotary)[:, 0]
        if isinstance(self.retain, Policy):
            entries = put_in_table(self.retain, state, k[:, :, None], v[:, :, None])
            after = evict(self.retain, state.successor(**entries))
        elif isinstance(self.retain, Window):
            after = state.successor(**put_in_ring(self.retain, state, k, v))
        else:
            return state.successor(**append(state, k[:, None], v[:, None]))
        if not torch.is_grad_enabled():
            state.spend()
        return after

    def _write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        if not isinstance(self.retain, Everything):
            return super()._write_all(state, k, v, controls)
        state.refuse_if_spent()
        k, v = k.to(state["keys"].dtype), self.packed(v, controls).to(state["values"].dtype)
        if self.read_rule.rotary is not None:
            position = state["count"][:, None] + torch.arange(k.shape[1], device=k.device)
            k = rotate(k, position, self.read_rule.rotary)
        return state.successor(**append(state, k, v))

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        if not several:
            q, controls = q[:, None], {name: value[:, None] for name, value in controls.items()}
        out, _ = self._respond(state, q, controls)
        return out if several else out[:, 0]

    def _respond(self, state: State, q: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
        """Answers (B, n, heads, V) to queries (B, n, heads, K) at the newest position, and the weights of the entries,
        (B, H, queries of a group, N)."""
        rule, count, slot = self.read_rule, state["count"], state["slot"]
        keys, values = state["keys"], state["values"]
        newest = (count - 1).clamp(min=0)
        own_places = slot.ndim == 3
        if not own_places:
            keys, values, slot = keys.transpose(1, 2), values.transpose(1, 2), slot[:, None]
        asking = q.to(keys.dtype)
        if rule.rotary is not None:
            asking = rotate(asking, newest[:, None].expand(q.shape[:2]), rule.rotary)
            if rule.positions == "kept":
                keys = self.renumbered(keys, slot, newest)
        position = slot - 1
        seen = slot > 0
        if rule.mask is not None:
            seen = seen & rule.mask.sees(newest[:, None, None], position)
        lag = (newest[:, None, None] - position)[:, :, None]
        out, weights = respond(rule, asking, keys, values, seen[:, :, None], lag, newest[:, None], controls)
        return out.to(q.dtype), weights

    def renumbered(self, keys: Tensor, slot: Tensor, newest: Tensor) -> Tensor:
        """keys (B, H, N, K) as if the kept entries followed each other without gaps up to the newest position, slot
        (B, H or 1, N)."""
        rule, retain = self.read_rule, self.retain
        assert rule.rotary is not None
        if isinstance(retain, Window):  # only sinks have a gap behind them
            if not retain.sinks:
                return keys
            gap = (newest - (retain.size + retain.sinks - 1)).clamp(min=0)
            sinks = keys[:, :, : retain.sinks].transpose(1, 2)
            moved = rotate(sinks, gap[:, None].expand(sinks.shape[:2]), rule.rotary).transpose(1, 2)
            return torch.cat([moved, keys[:, :, retain.sinks :]], 2)
        if not isinstance(retain, Policy):
            return keys
        later = torch.where(slot > 0, slot, 0)
        order = later.argsort(-1, descending=True).argsort(-1)  # 0 for the newest
        gap = newest[:, None, None] - order - (slot - 1)
        return rotate(keys[..., None, :], gap, rule.rotary)[..., 0, :]

    def __str__(self) -> str:
        return f"KVMemory({self.write_rule!r}, {self.retain!r}, {self.read_rule!r})"

    def __repr__(self) -> str:
        return str(self)


def over_group(policy: Policy, weights: Tensor, number: int) -> Tensor:
    """The weights (B, H, group * n, N) that a policy looks at, (B, H, n, N)."""
    weights = weights.unflatten(2, (-1, number))
    return weights.amax(2) if policy.group == "max" else weights.mean(2)
