"""Attention that waits: queries stand in a queue until what follows them has been written."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.lowering import run_rows
from mnemos.memory import Delayed, KVMemory
from mnemos.state import State


@dataclass(frozen=True)
class WaitToAttend(LayerDeclaration):
    """Attendre's two memories (arXiv 2401.04881): one of keys and values, and one of queries, first in, first out. With
    q, k, v = W x and a delay of d tokens, at token t

        k_t, v_t are written, q_t joins the queue, q_{t-d} leaves it and asks
        y_t = W_o read(q_{t-d}),   0 for t < d

    so that a query sees up to d tokens after its own, and its answer comes d tokens late: y_t belongs to x_{t-d}.
    `LanguageModel` delays its residual stream with it, and layers above see nothing until the first answer comes.
    Behind the last token `WaitToAttendLayer.flush` answers the queries that still wait. A reset drops them.
    With `Delayed(around=)` the last tokens' neighbourhoods end where the sequence does.

    memory: any key-value memory that is read by `Delayed(d)`. kv_heads: heads of keys and values where they are fewer.
    """

    memory: KVMemory = field(default_factory=lambda: KVMemory(read=Delayed(16, rotary=10000.0)))
    kv_heads: int | None = None

    def __post_init__(self) -> None:
        expect_kind(self.memory, KVMemory, "memory", "KVMemory(read=Delayed(16))")
        expect_kind(self.memory.read_rule, Delayed, "WaitToAttend(memory=KVMemory(read", "Delayed(16)")
        expect(
            self.kv_heads is None or self.kv_heads >= 1,
            f"WaitToAttend(kv_heads=) is at least 1; got {self.kv_heads}.",
        )

    @property
    def delay(self) -> int:
        assert isinstance(self.memory.read_rule, Delayed)
        return self.memory.read_rule.delay

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, {self.delay} queries" if self.delay else self.memory.kept

    def build(self, width: int, heads: int) -> WaitToAttendLayer:
        return WaitToAttendLayer(self, width, heads)


class WaitToAttendLayer(Layer):
    """The layer that `WaitToAttend` describes. Its state: `memory`; `waiting` (B, delay, H, K), the queries in the
    queue, the oldest first, zeros in front while there are fewer; `count` (B,) of tokens seen."""

    def __init__(self, spec: WaitToAttend, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        self.delay, self.kv_heads = spec.delay, spec.kv_heads or heads
        expect(
            heads % self.kv_heads == 0,
            f"heads must be a multiple of kv_heads; got {heads} and {self.kv_heads}.",
        )
        self.key_dim = width // heads
        self.sizes = [width, self.kv_heads * self.key_dim, self.kv_heads * self.key_dim]
        self.project = nn.Linear(width, sum(self.sizes), bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.key_dim, self.key_dim

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = weight.dtype
        if torch.is_autocast_enabled(weight.device.type):
            dtype = torch.get_autocast_dtype(weight.device.type)
        kept = self.memory.state_dtype(dtype)
        fresh = {
            "waiting": torch.zeros(1, self.delay, self.heads, self.key_dim, dtype=dtype, device=weight.device),
            "count": torch.zeros(1, dtype=torch.int64, device=weight.device),
        }
        memory = self.memory.init(1, self.kv_heads, self.key_dim, self.key_dim, None, kept, weight.device)
        return State(self.owner, {"memory": memory, **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        length, count = x.shape[1], state["count"]
        q, k, v = self.project(x).split(self.sizes, -1)
        q, k, v = (y.unflatten(-1, (-1, self.key_dim)) for y in (q, k, v))
        queue = torch.cat([state["waiting"].to(q.dtype), q], 1)
        position = count[:, None] + torch.arange(length, device=x.device)
        waited = self._waited(torch.full_like(position, self.delay), position)
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, queue[:, :length], k, v, waited, state.child("memory"), lengths)
        end = torch.full_like(count, length) if lengths is None else lengths
        last = end[:, None] + torch.arange(self.delay, device=x.device)
        waiting = queue.gather(1, last[:, :, None, None].expand(-1, -1, *queue.shape[2:]))
        after = state.successor(memory=memory, waiting=waiting.to(state["waiting"].dtype), count=count + end)
        return self.out(o.flatten(-2).to(x.dtype)), after

    def flush(self, state: State) -> Tensor:
        """What the queue would be answered if nothing more came, (B, delay, width): for tokens count - delay to
        count - 1, zero for those before the first. The state stays as it is, and no policy takes note."""
        waiting = state["waiting"]
        if not self.delay:
            return waiting.new_zeros(len(waiting), 0, self.width)
        age = torch.arange(self.delay - 1, -1, -1, device=waiting.device).expand(len(waiting), -1)
        waited = self._waited(age, state["count"][:, None] - 1)
        with torch.autocast(waiting.device.type, enabled=False):
            o = self.memory.read(state.child("memory"), waiting, waited)
        return self.out(o.flatten(-2).to(self.out.weight.dtype))

    def _waited(self, age: Tensor, newest: Tensor) -> dict[str, Tensor]:
        """The memory's control for queries that are `age` tokens old, (B, N), beside a newest token at `newest`."""
        waited = torch.where(newest >= age, age, -1).float()  # whole numbers that half precision does not have
        return {"waited": waited[..., None].expand(-1, -1, self.heads)}
