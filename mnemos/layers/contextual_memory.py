"""A memory of what followed: keys that describe the past, values that look one step ahead."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mnemos.errors import expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.diagonal import wide
from mnemos.layers.leaky_keys import FASTER, LeakyKeys, unit
from mnemos.lowering import run_rows
from mnemos.memory import KVMemory, Softmax
from mnemos.state import State


@dataclass(frozen=True)
class ContextualMemory(LayerDeclaration):
    """The contextual memory unit of Memory Mosaics (arXiv 2405.06394), a kernel regression over the pairs so far:

        s_t = exp(-|b|) s_t-1 + W_k x_t,   k_t = e^a s_t / |s_t|
        z_t = (1 - c) W_v x_t+1 + c W_v x_t,   v_t = e^u z_t / |z_t|
        o_T = sum_{t < T} p_t v_t,   p_t proportional to exp(-beta |k_T - k_t|^2),   o_0 = 0,   y = W_o o

    a, b, c and u are learned, one a head. All keys of a head are equally long, so with beta = 1/2 the kernel is
    softmax_t(k_T . k_t): keys are their own queries, and the width of the kernel is learned with their length.
    A pair (k_t, v_t) is complete when token t + 1 comes, and is read from then on; no token reads its own.

    memory: how the pairs are kept and read. Softmax(scale=2 beta) gives another beta, retain=Window(n) the last n
    pairs, read=LocalLinear(scale=1.0) a local regression by lines instead of constants.
    """

    memory: KVMemory = field(default_factory=lambda: KVMemory(read=Softmax(scale=1.0)))

    def __post_init__(self) -> None:
        expect_kind(self.memory, KVMemory, "memory", "KVMemory(read=Softmax(scale=1.0))")

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, a leaky sum of keys"

    def build(self, width: int, heads: int) -> ContextualMemoryLayer:
        return ContextualMemoryLayer(self, width, heads)


class ContextualMemoryLayer(Layer):
    """The layer that `ContextualMemory` describes.

    Its state: `memory`, the pairs; `key_memory`, the leaky sum; the last token's `last_key` (B, H, K) and `last_value`
    (B, H, V), W_v x, whose pair waits for the next token; `count` (B,) of tokens seen.
    """

    def __init__(self, spec: ContextualMemory, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        self.keys = LeakyKeys(width, heads)
        self.value = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.value.weight, std=0.02)
        self.present = nn.Parameter(torch.rand(heads))  # c
        self.value_scale = nn.Parameter(torch.full((heads,), -0.5 / FASTER))
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def fresh_state(self) -> State:
        weight, size = self.out.weight, self.width // self.heads
        dtype = computed_in(weight)
        kept = self.memory.state_dtype(dtype)
        fresh = {
            "last_key": torch.zeros(1, self.heads, size, dtype=dtype, device=weight.device),
            "last_value": torch.zeros(1, self.heads, size, dtype=dtype, device=weight.device),
            "count": torch.zeros(1, dtype=torch.int64, device=weight.device),
        }
        children = {
            "memory": self.memory.init(1, self.heads, size, size, None, kept, weight.device),
            "key_memory": self.keys.fresh_state(),
        }
        return State(self.owner, children | fresh, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        value = self.value(x).unflatten(-1, (self.heads, -1))
        key, key_memory = self.keys(x, state.child("key_memory"), lengths)
        key = key.to(value.dtype)
        # One token later, with the last one of the piece before in front: what the pairs are made of.
        past_key = torch.cat([state["last_key"].to(key.dtype)[:, None], key], 1)
        past_value = torch.cat([state["last_value"].to(value.dtype)[:, None], value], 1)
        completed = self._completed(wide(past_value[:, :-1]), wide(value)).to(value.dtype)
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = self._recall(key, past_key[:, :-1], completed, state, lengths)
        entries: dict[str, Tensor | State] = {"memory": memory, "key_memory": key_memory}
        for name, past in (("last_key", past_key), ("last_value", past_value)):
            entries[name] = _at_end(past, lengths).to(state[name].dtype)
        count = state["count"] + (x.shape[1] if lengths is None else lengths)
        return self.out(o.flatten(-2).to(value.dtype)), state.successor(**entries, count=count)

    def _completed(self, value: Tensor, following: Tensor) -> Tensor:
        """v_t from W_v x_t and W_v x_t+1."""
        share, scale = (p.to(value.dtype)[:, None] for p in (self.present, self.value_scale))
        return unit((1 - share) * following + share * value) * torch.exp(FASTER * scale)

    def _recall(self, q: Tensor, k: Tensor, v: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """What queries q find when k, v (B, T, H, .), the pair before each token, has been written. The first token
        of a document has none before it: its row is moved up by a token, its answer is zero."""
        opens = (state["count"] == 0).long()
        memory = state.child("memory")
        if not torch.compiler.is_compiling() and not bool(opens.any()):  # compiled code cannot look at values
            return run_rows(self.memory, q, k, v, {}, memory, lengths)
        time = torch.arange(q.shape[1], device=q.device)
        later = (time + opens[:, None]).clamp(max=q.shape[1] - 1)
        length = torch.full_like(opens, q.shape[1]) if lengths is None else lengths
        q, k, v = (_gathered(y, later) for y in (q, k, v))
        o, memory = run_rows(self.memory, q, k, v, {}, memory, (length - opens).clamp(min=0))
        o = _gathered(o, (time - opens[:, None]).clamp(min=0))
        return torch.where((time >= opens[:, None])[:, :, None, None], o, 0.0), memory

    def flops(self, length: int) -> float:
        matrices = self.value.weight.numel() + self.out.weight.numel()
        return self.plan(length).flops + self.keys.flops(length) + 2.0 * matrices * length


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """x (B, T, H, K) at the tokens index (B, T)."""
    return x.gather(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:]))


def _at_end(past: Tensor, lengths: Tensor | None) -> Tensor:
    """The last token of each row of past (B, 1 + T, H, K), which has one token more in front."""
    if lengths is None:
        return past[:, -1].clone()  # not a view, which would keep the whole piece alive
    return _gathered(past, lengths[:, None])[:, 0]
