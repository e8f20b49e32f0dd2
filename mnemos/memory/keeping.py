"""Memories that keep: keys and values themselves, and a rule for which of them stay and how they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Controls
from mnemos.memory.declaration import expect, expect_kind
from mnemos.memory.read import Read, Softmax
from mnemos.memory.retain import Everything, Retain, Window
from mnemos.memory.rotary import rotate
from mnemos.memory.write import Append
from mnemos.state import State


@dataclass(frozen=True, init=False)
class KVMemory(AnyMemory):
    """A memory of entries (k_j, v_j): what is written, what is retained, how it is read.

        after token t: entries = retain(entries + write(k_t, v_t));  o_t = read(q_t, entries)

    Its state holds keys (B, N, H, K) (already turned to their rotary positions), values (B, N, H, V), `slot` (B, N):
    position + 1, or 0 where a place is empty, and `count` (B,): tokens seen. N grows with `Everything` and is the
    constant size + sinks with `Window`, whose recent entries form a ring. Queries may have a multiple of the heads
    of the keys (grouped heads). `read` asks from the position of the newest entry; an empty memory answers zero.
    """

    # `write` and `read` are also the verbs of every memory, so the fields bear other names than the arguments.
    write_rule: Append = field(default_factory=Append, metadata={"argument": "write"})
    retain: Retain = field(default_factory=Everything)
    read_rule: Read = field(default_factory=Softmax, metadata={"argument": "read"})

    def __init__(self, write: Append | None = None, retain: Retain | None = None, read: Read | None = None) -> None:
        object.__setattr__(self, "write_rule", Append() if write is None else write)
        object.__setattr__(self, "retain", Everything() if retain is None else retain)
        object.__setattr__(self, "read_rule", Softmax() if read is None else read)
        expect_kind(self.write_rule, Append, "write", "Append()")
        expect_kind(self.retain, Retain, "retain", "Everything() or Window(256)")
        expect_kind(self.read_rule, Read, "read", "Softmax(rotary=10000.0)")

    @property
    def kept(self) -> str:
        places = self.retain.capacity
        return "all keys and values" if places is None else f"{places} keys and values"

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 2.0 * (self.retain.capacity or context) * (key_dim + value_dim)

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
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a key-value memory starts empty and takes no weights.")
        expect(
            self.read_rule.rotary is None or key_dim % 2 == 0,
            f"rotary positions turn pairs of channels, so key_dim must be even; got {key_dim}.",
        )
        places = self.retain.capacity or 0
        fresh = {
            "keys": torch.zeros(1, places, heads, key_dim, dtype=dtype, device=device),
            "values": torch.zeros(1, places, heads, value_dim, dtype=dtype, device=device),
            "slot": torch.zeros(1, places, dtype=torch.int64, device=device),
            "count": torch.zeros(1, dtype=torch.int64, device=device),
        }
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the entries: that of the inputs."""
        return dtype

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        keys, values, slot, count = state["keys"], state["values"], state["slot"], state["count"]
        if self.read_rule.rotary is not None:
            k = rotate(k[:, None], count[:, None], self.read_rule.rotary)[:, 0]
        k, v = k.to(keys.dtype), v.to(values.dtype)
        if not isinstance(self.retain, Window):
            return state.successor(
                keys=torch.cat([keys, k[:, None]], 1),
                values=torch.cat([values, v[:, None]], 1),
                slot=torch.cat([slot, (count + 1)[:, None]], 1),
                count=count + 1,
            )
        place = ring_place(self.retain, count)
        if torch.is_grad_enabled():
            here = torch.arange(slot.shape[1], device=slot.device) == place[:, None]
            return state.successor(
                keys=torch.where(here[:, :, None, None], k[:, None], keys),
                values=torch.where(here[:, :, None, None], v[:, None], values),
                slot=torch.where(here, (count + 1)[:, None], slot),
                count=count + 1,
            )
        rows = torch.arange(len(count), device=count.device)
        keys[rows, place], values[rows, place], slot[rows, place] = k, v, count + 1
        count += 1
        state.spend()
        return state.successor(keys=keys, values=values, slot=slot, count=count)

    def _read(self, state: State, q: Tensor) -> Tensor:
        keys, values, slot, count = state["keys"], state["values"], state["slot"], state["count"]
        batch, _, heads, _ = keys.shape
        grouped = q.reshape(batch, heads, -1, q.shape[-1]).to(keys.dtype)  # (B, H, queries of the group, K)
        scale = self.read_rule.scale or 1 / math.sqrt(q.shape[-1])
        by_head = keys.transpose(1, 2)
        if self.read_rule.rotary is None:
            scores = grouped @ by_head.mT
        else:
            newest, turned = count - 1, grouped.transpose(1, 2)
            sinks = self.retain.sinks if isinstance(self.retain, Window) else 0
            recent = rotate(turned.flatten(1, 2)[:, None], newest[:, None], self.read_rule.rotary)
            scores = recent.view_as(turned).transpose(1, 2) @ by_head[:, :, sinks:].mT
            if sinks:
                within = newest.clamp(max=(self.retain.capacity or 0) - 1)
                far = rotate(turned.flatten(1, 2)[:, None], within[:, None], self.read_rule.rotary)
                scores = torch.cat([far.view_as(turned).transpose(1, 2) @ by_head[:, :, :sinks].mT, scores], -1)
        scores = (scores * scale).masked_fill((slot == 0)[:, None, None], -torch.inf)
        weights = torch.softmax(scores, -1) if slot.shape[1] else scores
        weights = weights.masked_fill((count == 0)[:, None, None, None], 0)
        out = self.read_rule.answer(weights, grouped, by_head, values.transpose(1, 2))
        return out.reshape(batch, q.shape[1], values.shape[-1]).to(q.dtype)

    def __str__(self) -> str:
        return f"KVMemory({self.write_rule!r}, {self.retain!r}, {self.read_rule!r})"

    def __repr__(self) -> str:
        return str(self)


def ring_place(window: Window, position: Tensor) -> Tensor:
    """Where the entry of a position is stored: sinks first, then a ring of the recent ones."""
    return torch.where(position < window.sinks, position, window.sinks + (position - window.sinks) % window.size)
