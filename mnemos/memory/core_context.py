"""A memory that keeps recent entries one by one and older ones as the averages of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.control import Control, Controls
from mnemos.memory.heads import fold, unfold
from mnemos.memory.places import check_start, put_in_ring, vacant
from mnemos.memory.read.base import masked_softmax
from mnemos.memory.retain import Window
from mnemos.memory.rotary import rotate
from mnemos.state import State


@dataclass(frozen=True)
class CoreContext(AnyMemory):
    """Core context aware attention (arXiv 2412.12465). Tokens come in groups of `group`; a whole one makes a core

        k_c = sum_t p_t k_t,   v_c = sum_t p_t v_t,   p = softmax_t(scale q_last . k_t) over the group

    with the query of the group's last token, which is the control "query" (a layer passes the one it reads with, or the
    mean of those that share a head of keys). A query at i (counted from 0) reads, in one softmax, the first

        j = max(0, floor((i - window) / group))

    cores, and the entries from j group to i themselves: every past token once, the last window + 1 of them exactly. It
    is full attention as long as i < window + group, and for group=1 for ever.

    scale: a number, or None for 1/sqrt(key_dim). rotary: base of rotary positions, or None; groups are pooled before
    the turning, and a core stands at the position of its group's last token.

    Its state: `cores` with keys, values (B, M, H, .) and slot (B, M), the last position of the group + 1, M growing by
    one a group; `recent` the last window + group entries, keys not turned, as a ring.
    """

    group: int = 16
    window: int = 1024
    scale: float | None = None
    rotary: float | None = None
    grouped = True

    def __post_init__(self) -> None:
        expect(self.group >= 1, f"CoreContext(group=) is a number of tokens of at least 1; got {self.group}.")
        expect(self.window >= 0, f"CoreContext(window=) is a number of tokens, at least 0; got {self.window}.")
        expect(self.scale is None or self.scale > 0, f"CoreContext(scale=) must be positive; got {self.scale}.")
        expect(self.rotary is None or self.rotary > 1, f"CoreContext(rotary=) is a base above 1; got {self.rotary}.")

    @property
    def write_controls(self) -> tuple[Control, ...]:
        meaning = "query by which the last token of a group weighs the group"
        return (Control("query", "channel", -math.inf, math.inf, meaning, tied="query"),)

    @property
    def ring(self) -> Window:
        """What is kept of single entries."""
        return Window(self.window + self.group)

    @property
    def kept(self) -> str:
        return f"{self.window + self.group} keys and values, and an average for every {self.group} older ones"

    @property
    def growing(self) -> Mapping[str, int]:
        return dict.fromkeys(("cores.keys", "cores.values", "cores.slot"), self.group)

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 2.0 * (min(self.window + self.group, context) + context / self.group) * (key_dim + value_dim)

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
        """An empty state. Raises InvalidValue for any weights."""
        check_start("a core context memory", batch, heads, key_dim, value_dim, weights, self.rotary)
        owner = self.owner(heads, key_dim, value_dim)
        parts = {
            name: vacant(places, heads, key_dim, value_dim, dtype, device)
            for name, places in (("recent", self.ring.size), ("cores", 0))
        }
        parts["recent"]["count"] = torch.zeros(1, dtype=torch.int64, device=device)
        return State(owner, {name: State((*owner, ("part", name)), part) for name, part in parts.items()}).expand(batch)

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the entries: that of the inputs."""
        return dtype

    def scaled_by(self, key_dim: int) -> float:
        """The factor of all scores."""
        return self.scale or 1 / math.sqrt(key_dim)

    def pooled(self, q: Tensor, keys: Tensor, values: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Cores (B, C, H, .) of groups keys, values (B, C, group, H, .) by the queries q (B, C, H, K) of their last
        tokens, whose positions are `last` (B, C)."""
        scores = self.scaled_by(q.shape[-1]) * torch.einsum("bchk,bcghk->bchg", q, keys)
        weights = scores.softmax(-1)
        core_keys, core_values = (torch.einsum("bchg,bcghx->bchx", weights, x) for x in (keys, values))
        return core_keys if self.rotary is None else rotate(core_keys, last, self.rotary), core_values

    def cores_seen(self, position: Tensor) -> Tensor:
        """How many cores a query at `position` reads."""
        return torch.div(position - self.window, self.group, rounding_mode="floor").clamp(min=0)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        recent, cores = state.child("recent"), state.child("cores")
        dtype = recent["keys"].dtype
        now = recent["count"].clone()
        after = recent.successor(**put_in_ring(self.ring, recent, k.to(dtype), v.to(dtype)))
        complete = (now + 1) % self.group == 0
        compiling = torch.compiler.is_compiling()
        if compiling or bool(complete.any()):
            places = (now[:, None] + torch.arange(1 - self.group, 1, device=now.device)) % self.ring.size
            rows = torch.arange(len(now), device=now.device)[:, None]
            members = (after[name][rows, places][:, None] for name in ("keys", "values"))
            keys, values = self.pooled(controls["query"].to(dtype)[:, None], *members, last=now[:, None])
            number = (now // self.group)[:, None]
            needed = cores["slot"].shape[1] + 1 if compiling else int((number + 1)[complete].max())
            made = {"keys": keys, "values": values, "slot": now[:, None] + 1}
            cores = with_cores(cores, made, number, complete[:, None], max(needed, cores["slot"].shape[1]))
        if not torch.is_grad_enabled():
            state.spend()
        return state.successor(recent=after, cores=cores)

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        asked = q if several else q[:, None]
        recent, cores = state.child("recent"), state.child("cores")
        newest = (recent["count"] - 1).clamp(min=0)
        asked, keys = asked.to(recent["keys"].dtype), recent["keys"]
        position = recent["slot"] - 1
        if self.rotary is not None:
            asked = rotate(asked, newest[:, None].expand(asked.shape[:2]), self.rotary)
            keys = rotate(keys, position, self.rotary)
        used = self.cores_seen(newest)[:, None]
        numbers = torch.arange(cores["slot"].shape[1], device=used.device)
        seen = torch.cat([numbers < used, (position >= used * self.group) & (recent["slot"] > 0)], 1)[:, None, None]
        keys, values = torch.cat([cores["keys"], keys], 1), torch.cat([cores["values"], recent["values"]], 1)
        scores = self.scaled_by(q.shape[-1]) * torch.einsum("bhnk,bmhk->bhnm", fold(asked, keys.shape[2]), keys)
        answers = torch.einsum("bhnm,bmhv->bhnv", masked_softmax(scores, seen), values)
        out = unfold(answers, asked.shape[1]).to(q.dtype)
        return out if several else out[:, 0]

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)


def with_cores(cores: State, made: Mapping[str, Tensor], number: Tensor, complete: Tensor, places: int) -> State:
    """The cores with those in `made` (B, C, ...) added where they are complete: number (B, C) is the first one's place
    and the following ones', one by one. There are `places` after."""
    place = (
        torch.arange(places, device=number.device) - number[:, :1]
    )  # (B, places): which of the new ones stands there
    index = place.clamp(0, number.shape[1] - 1)
    fresh = (place == index) & complete.gather(1, index)
    entries: dict[str, Tensor | State] = {}
    for name, new in made.items():
        old = cores[name]
        old = torch.cat([old, old.new_zeros(old.shape[0], places - old.shape[1], *old.shape[2:])], 1)
        further = [1] * (new.ndim - 2)
        there = new.gather(1, index.view(*index.shape, *further).expand(*index.shape, *new.shape[2:]))
        entries[name] = torch.where(fresh.view(*fresh.shape, *further), there.to(old.dtype), old)
    return cores.successor(**entries)
