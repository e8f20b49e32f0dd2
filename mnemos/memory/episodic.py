"""Memories in episodes: everything is kept, and a query reads the few stretches of the past that it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect, expect_kind
from mnemos.memory.base import AnyMemory
from mnemos.memory.control import Control, Controls
from mnemos.memory.episode import Boundary, Every, MeanKey, Recall, Summary
from mnemos.memory.episode.refine import settled
from mnemos.memory.episode.segment import beginnings
from mnemos.memory.places import check_start, statistics_dtype, vacant
from mnemos.memory.read.base import masked_softmax
from mnemos.memory.rotary import rotate
from mnemos.state import State

Entries = dict[str, Tensor]

FEW = 4
"""So many times the entries that a query reads are few: looking at all is then faster than making lists."""


@dataclass(frozen=True)
class EpisodicMemory(AnyMemory):
    """A memory of entries (k_j, v_j) in episodes, stretches of consecutive tokens that all heads share. At token t:

        1. the token is written; it begins a new episode or goes on with the present one       (boundary)
        2. every earlier episode that has left the window is summed up and matched with the query       (summary)
        3. a few of them are found, and their neighbours in time                                        (recall)
        4. the query reads the entries of those

    With `together`, step 4 is one softmax over the entries of the episodes found, the first `sinks` tokens (which
    belong to no episode) and the near past: the last `window` tokens (the newest counted) and what else belongs to an
    episode that the window cuts, so that no token is lost between the two. Without, each episode found is read by a
    softmax of its own, and the answers are added up with weights that are a softmax of the matches:

        o = sum_e softmax_e(match_e) sum_{j in e} softmax_{j in e}(q . k_j / sqrt(K)) v_j

    An episode can be found once the next has begun; where boundaries are refined, once the one after that has. Where
    there is nothing to read, the answer is zero. Everything is decided token by token, so that a stream may be cut
    anywhere. No gradient flows through which episodes there are and which are found.

    boundary: Every(32), Surprise(...). summary: MeanKey(), Representatives(4), Address(). recall: Recall(8).
    rotary: base of rotary positions in the window; all that is further away is read as if it were `window` tokens ago,
    and so are summaries. scale: of the scores, None for 1/sqrt(key_dim). keep: find only the last so many finished
    episodes, and forget what lies before them, None for all.

    HCAM (arXiv 2105.14039) is `EpisodicMemory(Every(32), Address(), Recall(8), together=False)`, EM-LLM
    (arXiv 2407.09450) `EpisodicMemory(Surprise(), Representatives(4), Recall(...), window=, sinks=, rotary=)`, InfLLM
    (arXiv 2402.04617) the same with `Every(...)` and no contiguous part.

    A new rule for boundaries is a `Boundary`, another way to find episodes a `Summary`; each is a file in
    `mnemos/memory/episode/`, and its literal form a line in `mnemos/memory/reference/remembering.py`. Both see a whole
    run at once, and must say of a token what they would say if it were the last one.

    Its state: keys (B, N, H, K), not turned, values (B, N, H, V), `slot` (B, N): position + 1, or 0 where a place is
    empty, `episode` (B, N): its number from 1 on, 0 for sinks, `count` (B,); where they are needed `address`
    (B, N, H, K), `surprise`, `received` and `queued` (B, N): when its episode was last queued, position + 1. N grows,
    or is constant with `keep`. Queries may have a multiple of the heads of the keys (grouped heads). `read` asks from
    the position of the newest entry and changes nothing; `step` and whole runs note the attention received and the
    episodes queued.
    """

    boundary: Boundary = field(default_factory=Every)
    summary: Summary = field(default_factory=MeanKey)
    recall: Recall = field(default_factory=Recall)
    together: bool = True
    window: int = 0
    sinks: int = 0
    rotary: float | None = None
    scale: float | None = None
    keep: int | None = None
    grouped = True

    def __post_init__(self) -> None:
        expect_kind(self.boundary, Boundary, "boundary", "Every(32)")
        expect_kind(self.summary, Summary, "summary", "MeanKey()")
        expect_kind(self.recall, Recall, "recall", "Recall(8)")
        expect(self.window >= 0, f"EpisodicMemory(window=) is a number of tokens, at least 0; got {self.window}.")
        expect(self.sinks >= 0, f"EpisodicMemory(sinks=) is a number of tokens, at least 0; got {self.sinks}.")
        expect(
            self.together or not (self.window or self.sinks),
            "EpisodicMemory(together=False) reads each episode apart, and neither window nor sinks belong to one; got "
            f"window={self.window}, sinks={self.sinks}. Use together=True.",
        )
        expect(
            self.rotary is None or self.window >= 1,
            "EpisodicMemory(rotary=) gives positions to the window, and there is none; use window=256.",
        )
        expect(self.rotary is None or self.rotary > 0, f"EpisodicMemory(rotary=) must be positive; got {self.rotary}.")
        expect(
            not self.summary.watches or self.window >= 1,
            f"{self.summary} goes by the attention received in the window, and there is none; use window=256.",
        )
        expect(self.keep is None or self.keep >= 1, f"EpisodicMemory(keep=) is at least 1; got {self.keep}.")

    @property
    def write_controls(self) -> tuple[Control, ...]:
        return (*self.boundary.controls, *self.summary.write_controls)

    @property
    def read_controls(self) -> tuple[Control, ...]:
        return self.summary.read_controls

    @property
    def capacity(self) -> int | None:
        """The most entries it keeps; None without bound."""
        if self.keep is None:
            return None
        needed = max(self.reach, self.keep * self.longest, self.boundary.span)
        return self.sinks + needed + self.longest

    @property
    def settling(self) -> int:
        """How many episodes must have begun since, before one can be found."""
        return 1 if self.boundary.refine is None else 2

    @property
    def longest(self) -> int:
        """The most tokens of an episode."""
        return self.boundary.longest * (1 if self.boundary.refine is None else 2)

    @property
    def reach(self) -> int:
        """How many tokens back the near past goes at most, the newest counted."""
        return max(self.settling * self.longest, self.window + self.longest) if self.window else 0

    @property
    def recalled(self) -> int:
        """The most entries of episodes that a query reads."""
        total = self.recall.similar + self.recall.contiguous
        return total * self.longest if self.recall.unit == "episodes" else total + self.longest

    @property
    def kept(self) -> str:
        what = "all keys and values" if self.keep is None else f"keys and values of {self.keep} episodes"
        return f"{what}, in episodes"

    @property
    def noted(self) -> tuple[str, ...]:
        """What is noted of every entry beside its key, value and slot."""
        needed = {
            "episode": True,
            "address": self.summary.own,
            "surprise": self.boundary.span > 0,
            "received": self.summary.watches,
            "queued": self.recall.contiguous > 0,
        }
        return tuple(name for name, so in needed.items() if so)

    @property
    def growing(self) -> Mapping[str, int]:
        if self.capacity is not None:
            return {}
        return dict.fromkeys(("keys", "values", "slot", *self.noted), 1)

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        episodes = context / self.boundary.longest if self.keep is None else self.keep
        near = min(self.recalled + self.window + self.sinks, context)
        return 2.0 * episodes * key_dim + 2.0 * near * (key_dim + value_dim)

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
        check_start("an episodic memory", batch, heads, key_dim, value_dim, weights, self.rotary)
        places = self.capacity or 0
        fresh = vacant(places, heads, key_dim, value_dim, dtype, device)
        kinds = {"address": dtype, "surprise": statistics_dtype(dtype), "received": statistics_dtype(dtype)}
        for name in self.noted:
            shape = (heads, key_dim) if name == "address" else ()
            fresh[name] = torch.zeros(1, places, *shape, dtype=kinds.get(name, torch.int64), device=device)
        fresh["count"] = torch.zeros(1, dtype=torch.int64, device=device)
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the entries: that of the inputs."""
        return dtype

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        now = {name: value[:, None] for name, value in controls.items()}
        written = write_all(self, state, k[:, None], v[:, None], now, None)
        entries, asked = written.entries, asked_with(self, q[:, None], now)
        if self.summary.watches:
            given = received(self, q[:, None], written.position, entries["keys"], entries["slot"])
            entries["received"] = entries["received"] + given
        table = table_of(self, entries)
        found = find(self, table, asked, written.position, written.current, table.queued)
        out = read_found(self, table, entries, q[:, None], written.position, found)
        if self.recall.contiguous:
            entries["queued"] = found.queued[:, -1].gather(1, table.place)
        return out[:, 0], stored(self, state, entries, written.seen)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        now = {name: value[:, None] for name, value in controls.items()}
        written = write_all(self, state, k[:, None], v[:, None], now, None)
        after = stored(self, state, written.entries, written.seen)
        if self.capacity is not None and not torch.is_grad_enabled():
            state.spend()
        return after

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        if not several:
            q, controls = q[:, None], {name: value[:, None] for name, value in controls.items()}
        entries = entries_of(state)
        if not entries["slot"].shape[1]:
            out = q.new_zeros(*q.shape[:3], entries["values"].shape[-1])
        else:
            table, asked = table_of(self, entries), asked_with(self, q, controls)
            position = (state["count"] - 1).clamp(min=0)[:, None]
            current = entries["episode"].amax(1)[:, None]
            # Where episodes are queued, each query reads by itself: none queues one for another.
            number = 1 if self.recall.contiguous else q.shape[1]
            answers = []
            for of_some, cue in zip(q.split(number, 1), asked.split(number, 1), strict=True):
                here, now = position.expand(-1, number), current.expand(-1, number)
                found = find(self, table, cue, here, now, table.queued)
                answers.append(read_found(self, table, entries, of_some, here, found))
            out = torch.cat(answers, 1)
        return out if several else out[:, 0]


class Written(NamedTuple):
    """Old and new entries (B, N + T, ...), the new ones last; of the new tokens their position and the episode that
    each found itself in (B, T), which a refinement may have changed since, and which of them are real; the tokens seen
    after them."""

    entries: Entries
    position: Tensor
    current: Tensor
    live: Tensor
    seen: Tensor


class Table(NamedTuple):
    """All episodes of some entries, each at a place: the place of each entry (B, N), 0 for sinks and empty places; the
    number of place 0, (B, 1); tokens and last position (B, E), summaries (B, E, H, K); when they were queued (B, E).
    And the entries in the order of time, empty places first, (B, N), and where in it an episode begins, (B, E)."""

    place: Tensor
    base: Tensor
    size: Tensor
    last: Tensor
    summary: Tensor
    queued: Tensor
    order: Tensor
    start: Tensor


class Found(NamedTuple):
    """Of n queries: the episodes that are read as such, those that lie beyond the near past whether they are read or
    not, (B, n, E) bool; the weights (B, n, E) with which apart answers are added up; when each episode was last
    queued, (B, n, E)."""

    read: Tensor
    far: Tensor
    weights: Tensor
    queued: Tensor


def entries_of(state: State) -> Entries:
    """All of a state's tensors but the count."""
    return {name: state[name] for name in state.entries if name != "count"}


def asked_with(memory: EpisodicMemory, q: Tensor, controls: Controls) -> Tensor:
    """What episodes are matched with, (B, n, H, K): the query as if it were asked from the window's far end."""
    if memory.summary.own:
        return controls["asking"]
    return far_query(memory, q)


def far_query(memory: EpisodicMemory, q: Tensor) -> Tensor:
    """q (B, n, H, K) turned by the one distance at which everything beyond the window is read."""
    if memory.rotary is None:
        return q
    return rotate(q, torch.full(q.shape[:2], memory.window, device=q.device), memory.rotary)


def write_all(
    memory: EpisodicMemory, state: State, k: Tensor, v: Tensor, controls: Controls, lengths: Tensor | None
) -> Written:
    """The entries with T tokens more, in their episodes."""
    held, boundary = entries_of(state), memory.boundary
    count, length, device = state["count"], k.shape[1], k.device
    dtype, real = held["keys"].dtype, statistics_dtype(held["keys"].dtype)
    position = count[:, None] + torch.arange(length, device=device)
    live = torch.ones_like(position, dtype=torch.bool)
    if lengths is not None:
        live = torch.arange(length, device=device) < lengths[:, None]
    new: dict[str, Tensor] = {"keys": k.to(dtype), "values": v.to(dtype), "slot": torch.where(live, position + 1, 0)}
    if memory.summary.own:
        new["address"] = controls["address"].to(dtype)

    proposed = torch.zeros_like(live)
    if boundary.span:
        slot, places = newest(held["slot"], boundary.span)
        last = _at(held["keys"], places[:, -1:]) if places.shape[1] else 0.0 * new["keys"][:, :1]
        surprise = boundary.surprise(torch.cat([last, new["keys"]], 1).detach().to(real), controls).detach().to(real)
        surprise = torch.where(position > 0, surprise, 0.0)
        before = held["surprise"].detach().gather(1, places)
        missing = boundary.span - slot.shape[1]
        history = F.pad(torch.cat([before, surprise], 1), (missing, 0))
        known = F.pad(torch.cat([slot > 1, live & (position > 0)], 1), (missing, 0))  # nothing came before token 0
        proposed = boundary.proposes(history, known)
        new["surprise"] = torch.where(live, surprise, 0.0)

    number = held["episode"].amax(1) if held["slot"].shape[1] else torch.zeros_like(count)
    open_size = ((held["episode"] == number[:, None]) & (number > 0)[:, None]).sum(1)
    before_first = (memory.sinks - count).clamp(min=0)
    begins = beginnings(proposed & live, boundary.shortest, boundary.longest, open_size, before_first) & live
    current = number[:, None] + begins.long().cumsum(1)
    new["episode"] = torch.where(live, current, 0)
    for name in ("received", "queued"):
        if name in held:
            new[name] = torch.zeros_like(new["slot"], dtype=held[name].dtype)
            held[name] = held[name].detach()
    if "surprise" in held:
        held["surprise"] = held["surprise"].detach()
    entries = {name: torch.cat([held[name], x], 1) for name, x in new.items()}
    if boundary.refine is not None:
        somewhere = range(length) if torch.compiler.is_compiling() else begins.any(0).nonzero()[:, 0].tolist()
        for t in somewhere:
            shown = entries["keys"], entries["slot"], entries["episode"]
            before = current[:, t] - 1
            entries["episode"] = settled(*shown, before, begins[:, t], boundary.longest, boundary.refine)
    return Written(entries, position, current, live, count + live.sum(1))


def newest(slot: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The slots of the last `number` entries and their places, (B, up to number), in the order of time; empty places
    come first."""
    found = slot.topk(min(number, slot.shape[1]), 1)
    return found.values.flip(1), found.indices.flip(1)


def stored(memory: EpisodicMemory, state: State, entries: Entries, count: Tensor) -> State:
    """The state that keeps of these entries what there is room for: the sinks and the newest."""
    room = memory.capacity
    if room is not None:
        slot = entries["slot"]
        first = (slot > 0) & (slot <= memory.sinks)
        _, places = newest(torch.where(first, torch.iinfo(torch.int64).max, slot), room)
        entries = {name: _at(x, places) for name, x in entries.items()}
    return state.successor(**{n: entries.get(n, count) for n in state.entries})


def received(memory: EpisodicMemory, q: Tensor, position: Tensor, keys: Tensor, slot: Tensor) -> Tensor:
    """The attention (B, N) that entries got from queries (B, n, H, K) in a softmax over the window alone. Queries at
    position -1 are padding and give nothing."""
    lag = position[:, :, None] + 1 - slot[:, None]
    seen = (slot > 0)[:, None] & (lag >= 0) & (lag < memory.window)
    weights = masked_softmax(near_scores(memory, q.detach(), position, keys.detach(), slot), seen[:, None])
    return weights.sum((1, 2)).to(statistics_dtype(keys.dtype))


def near_scores(memory: EpisodicMemory, q: Tensor, position: Tensor, keys: Tensor, slot: Tensor) -> Tensor:
    """(B, H, n, N), at the true distances."""
    if memory.rotary is not None:
        q = rotate(q, position, memory.rotary)
        keys = rotate(keys, slot - 1, memory.rotary)
    return _scores(memory, q, keys)


def _scale(memory: EpisodicMemory, q: Tensor) -> float:
    return memory.scale or 1 / math.sqrt(q.shape[-1])


def _scores(memory: EpisodicMemory, q: Tensor, keys: Tensor) -> Tensor:
    q, keys = q.to(statistics_dtype(keys.dtype)), keys.to(statistics_dtype(keys.dtype))
    return _scale(memory, q) * _times(q.transpose(1, 2), keys.permute(0, 2, 3, 1))


def _times(x: Tensor, y: Tensor) -> Tensor:
    """x (B, heads, n, .) times y (B, H, ., .), each head of y serving a group of heads of x."""
    if x.shape[1] == y.shape[1]:
        return x @ y
    group = x.unflatten(1, (y.shape[1], -1))
    return (group.flatten(2, 3) @ y).unflatten(2, group.shape[2:4]).flatten(1, 2)


def table_of(memory: EpisodicMemory, entries: Entries) -> Table:
    """What there is to know of each episode, once it is finished."""
    slot, episode = entries["slot"], entries["episode"]
    batch, number = slot.shape
    some = (episode > 0) & (slot > 0)
    base = torch.where(some, episode, torch.iinfo(torch.int64).max).amin(1, keepdim=True) - 1
    base = torch.where(some.any(1, keepdim=True), base, 0)
    index = torch.where(some, episode - base, 0)
    if torch.compiler.is_compiling():
        episodes = number // memory.boundary.shortest + 5
    else:
        episodes = int(index.max()) + 1 if batch else 1
    size = torch.zeros(batch, episodes, dtype=torch.int64, device=slot.device).scatter_add(1, index, some.long())
    last = torch.zeros_like(size).scatter_reduce(1, index, slot - 1, "amax")
    cues = entries["address"] if memory.summary.own else entries["keys"]
    real = statistics_dtype(cues.dtype)
    sizes = size.gather(1, index).to(real)
    weights = torch.where(some, memory.summary.weights(index, sizes, slot, entries.get("received")), 0.0).to(real)
    flat = (cues * weights[..., None, None]).flatten(2)
    summary = torch.zeros(batch, episodes, flat.shape[-1], dtype=flat.dtype, device=flat.device)
    summary = summary.scatter_add(1, _along(index, flat), flat).unflatten(-1, cues.shape[2:])
    queued = torch.zeros_like(size)
    if "queued" in entries:
        queued = queued.scatter_reduce(1, index, torch.where(some, entries["queued"], 0), "amax")
    order = slot.argsort(dim=1, stable=True)
    start = torch.full_like(size, number).scatter_reduce(1, index, order.argsort(1), "amin")
    return Table(index, base, size, last, summary, queued, order, start)


def find(
    memory: EpisodicMemory, table: Table, asked: Tensor, position: Tensor, current: Tensor, queued: Tensor
) -> Found:
    """What queries `asked` (B, n, H, K) at `position`, within the episodes `current` (B, n), find."""
    recall, heads = memory.recall, table.summary.shape[2]
    scale = 1 / math.sqrt(asked.shape[2] * asked.shape[3])
    asked = asked.to(table.summary.dtype).unflatten(2, (heads, -1)).sum(3)  # all queries of a group ask together
    number = table.base + torch.arange(table.size.shape[1], device=asked.device)  # (B, E)
    exists = (table.size > 0) & (number > table.base)
    here, now = current[..., None], position[..., None]
    far = finished = exists[:, None] & (number[:, None] <= here - memory.settling)
    if memory.window:
        far = far & (table.last[:, None] <= now - memory.window)
    readable = far if memory.keep is None else far & (number[:, None] >= here - memory.keep)
    match = scale * (asked.flatten(2) @ table.summary.flatten(2).mT)
    found = recall.choose(match, readable, table.size)
    read, stamps = found, queued[:, None].expand_as(found)
    if recall.contiguous:
        stamps = recall.queue(found, finished, position, queued)
        read = found | recall.neighbours(stamps, found, readable, table.size)
    weights = match if memory.together else masked_softmax(match, read)
    return Found(read, far, weights, stamps)


def read_found(
    memory: EpisodicMemory, table: Table, entries: Entries, q: Tensor, position: Tensor, found: Found
) -> Tensor:
    """Answers (B, n, H, V) to queries (B, n, H, K), by all entries where they are few, and otherwise by lists of those
    that are read. What is done must not depend on what other queries find, which may be later ones."""
    few = FEW * (memory.recalled + memory.reach + memory.sinks)
    read = _from_all if entries["slot"].shape[1] <= few else _from_lists
    return read(memory, table, entries, q, position, found).to(q.dtype)


def _from_all(
    memory: EpisodicMemory, table: Table, entries: Entries, q: Tensor, position: Tensor, found: Found
) -> Tensor:
    slot = entries["slot"]
    index = table.place[:, None].expand(-1, position.shape[1], -1)
    past = (slot > 0)[:, None] & (slot[:, None] <= position[:, :, None] + 1)
    near, far = _beside(memory, slot, position, found.far.gather(2, index))
    far = far | (past & found.read.gather(2, index))
    weights = _weigh(memory, _both_scores(memory, q, position, entries["keys"], slot, near), near | far, index, found)
    return _times(weights, entries["values"].to(weights.dtype).transpose(1, 2)).transpose(1, 2)


def _from_lists(
    memory: EpisodicMemory, table: Table, entries: Entries, q: Tensor, position: Tensor, found: Found
) -> Tensor:
    number, device = min(memory.recalled, table.order.shape[1]), q.device
    # The episodes read, one behind the other: place r of a query's list is in the episode at which the sum of their
    # sizes first exceeds r.
    ends = torch.where(found.read, table.size[:, None], 0).cumsum(-1)
    place = torch.arange(number, device=device).expand(*ends.shape[:2], -1).contiguous()
    index = torch.searchsorted(ends, place, right=True).clamp(max=ends.shape[-1] - 1)
    there = place < ends[..., -1:]

    def of_episode(x: Tensor) -> Tensor:
        return x[:, None].expand(-1, index.shape[1], -1).gather(2, index)

    at = of_episode(table.start) + place - (ends.gather(2, index) - of_episode(table.size))
    chosen = table.order.gather(1, torch.where(there, at, 0).flatten(1)).view(at.shape)
    real = statistics_dtype(entries["keys"].dtype)
    keys, values = (_of_heads(entries[name], chosen).to(real) for name in ("keys", "values"))  # (B, H, n, R, .)
    asked = far_query(memory, q).to(real).transpose(1, 2)
    asked = asked.unflatten(1, (keys.shape[1], -1)).movedim(2, 3)  # (B, H, n, group, K)
    scores = (_scale(memory, q) * (asked @ keys.mT)).movedim(3, 2).flatten(1, 2)  # (B, heads, n, R)
    if not memory.window and not memory.sinks:
        weights = _weigh(memory, scores, there, index, found)
        return _of_each(weights, values).transpose(1, 2)

    columns, slot = _near_columns(memory, table, entries["slot"], position)
    near_keys, near_values = (_at(entries[name], columns).to(real) for name in ("keys", "values"))
    episode = table.place.gather(1, columns)[:, None].expand(-1, position.shape[1], -1)
    near, far = _beside(memory, slot, position, found.far.gather(2, episode))
    beside = _both_scores(memory, q, position, near_keys, slot, near)
    index = torch.cat([index, episode], -1)
    weights = _weigh(memory, torch.cat([scores, beside], -1), torch.cat([there, near | far], -1), index, found)
    of_lists, of_beside = weights.split([number, columns.shape[1]], -1)
    out = _of_each(of_lists, values) + _times(of_beside, near_values.transpose(1, 2))
    return out.transpose(1, 2)


def _of_each(weights: Tensor, values: Tensor) -> Tensor:
    """weights (B, heads, n, R) of lists of values (B, H, n, R, V): (B, heads, n, V)."""
    group = weights.unflatten(1, (values.shape[1], -1)).movedim(2, 3)
    return (group @ values).movedim(3, 2).flatten(1, 2)


def _near_columns(memory: EpisodicMemory, table: Table, slot: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The places of sinks and of all that may be near for queries at successive positions (B, n), and their slots
    (B, M), 0 where a place is not what was meant."""
    number = slot.shape[1]
    filled = (slot > 0).sum(1, keepdim=True)
    first = number - filled + torch.arange(memory.sinks, device=slot.device)
    wanted = position[:, :1] + torch.arange(1 - memory.reach, position.shape[1], device=slot.device)
    recent = number - 1 - (slot.amax(1, keepdim=True) - 1 - wanted)
    if not memory.reach:
        recent, wanted = recent[:, :0], wanted[:, :0]
    columns = table.order.gather(1, torch.cat([first, recent], 1).clamp(0, number - 1))
    found = slot.gather(1, columns)
    meant = torch.cat([torch.arange(memory.sinks, device=slot.device).expand(len(slot), -1), wanted], 1) + 1
    sinks = torch.arange(meant.shape[1], device=slot.device) < memory.sinks
    return columns, torch.where((found == meant) & (sinks == (meant <= memory.sinks)), found, 0)


def _beside(memory: EpisodicMemory, slot: Tensor, position: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries (B, n, N) are read whatever is found, at their true distance and as far away; `beyond` (B, n, N):
    those in episodes that lie beyond the near past."""
    lag = position[:, :, None] + 1 - slot[:, None]
    past, sink = (slot > 0)[:, None] & (lag >= 0), (slot <= memory.sinks)[:, None]
    near = past & ~sink & ~beyond if memory.window else torch.zeros_like(past)
    return near | (past & sink & (lag < memory.window)), past & sink & (lag >= memory.window)


def _both_scores(
    memory: EpisodicMemory, q: Tensor, position: Tensor, keys: Tensor, slot: Tensor, near: Tensor
) -> Tensor:
    """(B, H, n, N) at the true distance for what is near, and otherwise as far away."""
    scores = _scores(memory, far_query(memory, q), keys)
    if memory.rotary is None:
        return scores
    return torch.where(near[:, None], near_scores(memory, q, position, keys, slot), scores)


def _weigh(memory: EpisodicMemory, scores: Tensor, seen: Tensor, index: Tensor, found: Found) -> Tensor:
    """The weights of entries, (B, H, n, N), of which some are seen (B, n, N), in the episodes at `index` (B, n, N)."""
    seen = seen[:, None]
    if memory.together:
        return masked_softmax(scores, seen)
    index = index[:, None].expand(scores.shape)
    scores = scores.masked_fill(~seen, -torch.inf)
    top = scores.new_full((*scores.shape[:3], found.read.shape[-1]), -torch.inf)
    top = top.scatter_reduce(3, index, scores.detach(), "amax").masked_fill(~found.read[:, None], 0.0)
    parts = torch.exp(torch.where(seen, scores - top.gather(3, index), -torch.inf))
    total = torch.zeros_like(top).scatter_add(3, index, parts)
    share = torch.where(found.read[:, None], found.weights[:, None] / torch.where(total > 0, total, 1.0), 0.0)
    return parts * share.gather(3, index)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """x (B, N, ...) at places (B, M): (B, M, ...)."""
    rows = places + x.shape[1] * torch.arange(len(x), device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, places.shape)


def _of_heads(x: Tensor, places: Tensor) -> Tensor:
    """x (B, N, H, K) at places (B, n, R): (B, H, n, R, K)."""
    rows = (places + x.shape[1] * torch.arange(len(x), device=x.device)[:, None, None])[:, None] * x.shape[2]
    rows = rows + torch.arange(x.shape[2], device=x.device)[:, None, None]
    return x.flatten(0, 2).index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _along(places: Tensor, x: Tensor) -> Tensor:
    """places (B, M) as an index of the second axis of x (B, N, ...)."""
    return places.view(*places.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
