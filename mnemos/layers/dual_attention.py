"""Heads that read what tokens are, beside heads that read how they relate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.lowering import Plan, Request, lower, run_rows
from mnemos.memory import Append, Everything, KVMemory, Softmax
from mnemos.memory.rotary import rotate
from mnemos.state import State

SYMBOL_BASE = 10000.0
"""Base of the frequencies of relative symbols."""


@dataclass(frozen=True)
class DualAttention(LayerDeclaration):
    """The Dual Attention Transformer's layer (arXiv 2405.16727). Sensory heads are those of softmax attention. A
    relational head h has attention weights of its own and reads, in place of values, relations and symbols:

        r_tj[l] = (A_l x_t) . (B_l x_j) / sqrt(p),   l = 1 .. relations, the same for all heads
        o_t^h = sum_j softmax_j(q_t^h . k_j^h / sqrt(K)) (R^h r_tj + S^h s_j)

    and y = [W_s (all sensory heads); W_r (all relational heads)]. Relations are bilinear, so r is never formed: the
    heads average the B_l x_j, and A_l x_t is multiplied with the average. All relational heads share one entry a
    token: their keys side by side, B x_j and s_j.

    relational: how many of the heads are relational; None for half of them, rounded down. relations: how many a pair
    has, p = relational K / relations channels each; None for one a relational head.
    symbols: "symbolic", s_j = softmax_i(W x_j . T_i / sqrt(width)) L_i from a learned library of `library` templates T
    and symbols L; "relative", s_j the sines and cosines of j - t at frequencies of rotary positions, which knows
    nothing of x.
    symmetric: A = B. rotary: base of the rotary positions of q and k in all heads, None for none.
    """

    relational: int | None = None
    relations: int | None = None
    symbols: Literal["symbolic", "relative"] = "symbolic"
    library: int = 64
    symmetric: bool = False
    rotary: float | None = 10000.0

    def __post_init__(self) -> None:
        expect(
            self.relational is None or self.relational >= 0,
            f"DualAttention(relational=) is a number of heads; got {self.relational}.",
        )
        expect(
            self.relations is None or self.relations >= 1,
            f"DualAttention(relations=) is at least 1; got {self.relations}.",
        )
        expect(
            self.symbols in ("symbolic", "relative"),
            f'DualAttention(symbols=) is "symbolic" or "relative"; got {self.symbols!r}.',
        )
        expect(self.library >= 1, f"DualAttention(library=) is a number of symbols of at least 1; got {self.library}.")
        expect(
            self.rotary is None or self.rotary > 1,
            f"DualAttention(rotary=) is a base above 1, or None; got {self.rotary}.",
        )

    @property
    def kept(self) -> str:
        return "all keys and values, all relation keys and symbols"

    def build(self, width: int, heads: int) -> DualAttentionLayer:
        return DualAttentionLayer(self, width, heads)


class DualAttentionLayer(Layer):
    """The layer that `DualAttention` describes.

    Its state: `sensory`, the memory of the sensory heads; `relational`, one entry a token for all relational heads;
    `count` (B,) of tokens seen. A kind of heads that the layer does not have has no memory.
    """

    def __init__(self, spec: DualAttention, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.size = spec, width, heads, width // heads
        spec.to_json()  # compiled code can only read it
        self.relational = heads // 2 if spec.relational is None else spec.relational
        expect(self.relational <= heads, f"{self.relational} relational heads are more than all {heads}.")
        expect(spec.rotary is None or self.size % 2 == 0, f"rotary positions need an even key_dim; got {self.size}.")
        self.memories: dict[str, KVMemory] = {}
        if self.relational < heads:
            self._build_sensory((heads - self.relational) * self.size)
        if self.relational:
            self._build_relational(self.relational * self.size)
        for memory in self.memories.values():
            memory.to_json()

    def _build_sensory(self, inner: int) -> None:
        self.memories["sensory"] = KVMemory(write=Append(), retain=Everything(), read=Softmax(rotary=self.spec.rotary))
        self.project = nn.Linear(self.width, 3 * inner, bias=False)
        self.sensory_out = nn.Linear(inner, inner, bias=False)

    def _build_relational(self, inner: int) -> None:
        spec, width = self.spec, self.width
        self.relations = self.relational if spec.relations is None else spec.relations
        expect(
            inner % self.relations == 0,
            f"{inner} channels of relational heads cannot be shared between {self.relations} relations.",
        )
        scale = 1 / math.sqrt(self.size)
        self.memories["relational"] = KVMemory(write=Append(), retain=Everything(), read=Softmax(scale=scale))
        self.attend = nn.Linear(width, 2 * inner, bias=False)
        self.relate = nn.Linear(width, inner if spec.symmetric else 2 * inner, bias=False)
        self.from_relations = nn.Parameter(torch.randn(self.relational, self.size, self.relations))
        self.from_symbols = nn.Parameter(torch.randn(self.relational, self.size, width) / math.sqrt(width))
        with torch.no_grad():
            self.from_relations.div_(math.sqrt(self.relations))
        if spec.symbols == "symbolic":
            self.retrieve = nn.Linear(width, width, bias=False)
            self.templates = nn.Parameter(torch.randn(spec.library, width))
            self.symbols = nn.Parameter(torch.randn(spec.library, width))
        else:
            expect(width % 2 == 0, f"relative symbols are sines and cosines: width must be even; got {width}.")
        self.relational_out = nn.Linear(inner, inner, bias=False)

    def sizes_of(self, name: str) -> tuple[int, int, int]:
        """Heads of queries, key_dim and value_dim of a memory."""
        if name == "sensory":
            return self.heads - self.relational, self.size, self.size
        inner = self.relational * self.size
        return self.relational, inner, inner + self.width

    def fresh_state(self) -> State:
        weight = next(self.parameters())
        dtype = computed_in(weight)
        entries: dict[str, Tensor | State] = {}
        for name, memory in self.memories.items():
            heads, key_dim, value_dim = self.sizes_of(name)
            heads = heads if name == "sensory" else 1
            entries[name] = memory.init(1, heads, key_dim, value_dim, None, memory.state_dtype(dtype), weight.device)
        fresh = {"count": torch.zeros(1, dtype=torch.int64, device=weight.device)}
        return State(self.owner, entries | fresh, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        count = state["count"]
        position = count[:, None] + torch.arange(x.shape[1], device=x.device)
        entries: dict[str, Tensor | State] = {"count": count + (x.shape[1] if lengths is None else lengths)}
        parts = []
        if "sensory" in self.memories:
            q, k, v = (y.unflatten(-1, (-1, self.size)) for y in self.project(x).chunk(3, -1))
            with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
                memory = self.memories["sensory"]
                o, entries["sensory"] = run_rows(memory, q, k, v, {}, state.child("sensory"), lengths)
            parts.append(self.sensory_out(o.flatten(-2).to(q.dtype)))
        if "relational" in self.memories:
            o, entries["relational"] = self._relate(x, position, state.child("relational"), lengths)
            parts.append(self.relational_out(o))
        return torch.cat(parts, -1), state.successor(**entries)

    def _relate(self, x: Tensor, position: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """What all relational heads answer, side by side, and their memory after."""
        spec, inner = self.spec, self.relational * self.size
        q, k = (y.unflatten(-1, (-1, self.size)) for y in self.attend(x).chunk(2, -1))
        if spec.rotary is not None:
            q, k = (rotate(y, position, spec.rotary) for y in (q, k))
        related = self.relate(x)
        asking, asked = (related, related) if spec.symmetric else related.chunk(2, -1)
        # One entry for all heads: a head's query is zero where the keys of the others stand.
        own = torch.eye(self.relational, dtype=q.dtype, device=q.device)[:, :, None]
        placed = (q[..., None, :] * own).flatten(-2)
        values = torch.cat([asked, self._symbols(x, position).to(asked.dtype)], -1)
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            inputs = (placed, k.flatten(-2)[:, :, None], values[:, :, None])
            o, after = run_rows(self.memories["relational"], *inputs, {}, state, lengths)
        o = o.to(asked.dtype)
        mean, symbols = o[..., :inner].unflatten(-1, (self.relations, -1)), o[..., inner:]
        if spec.symbols == "relative":
            symbols = rotate(symbols, -position, SYMBOL_BASE)
        relations = (asking.unflatten(-1, (self.relations, -1))[:, :, None] * mean).sum(-1) / math.sqrt(mean.shape[-1])
        o = torch.einsum("bthl,hol->btho", relations, self.from_relations.to(o.dtype))
        o = o + torch.einsum("bthw,how->btho", symbols, self.from_symbols.to(o.dtype))
        return o.flatten(-2), after

    def _symbols(self, x: Tensor, position: Tensor) -> Tensor:
        """What each token is called, (B, T, width)."""
        if self.spec.symbols == "symbolic":
            scores = self.retrieve(x) @ self.templates.to(x.dtype).mT / math.sqrt(self.width)
            return torch.softmax(scores, -1) @ self.symbols.to(x.dtype)
        ahead = torch.arange(self.width, device=x.device) < self.width // 2
        return rotate(ahead.to(x.dtype).expand(*x.shape[:2], 1, -1), position, SYMBOL_BASE)[:, :, 0]

    def plans(self, length: int, batch: int = 1, training: bool = False) -> list[Plan]:
        """How each of its memories runs on `length` tokens."""
        weight = next(self.parameters())
        rest = (weight.dtype, weight.device.type, training)
        return [lower(m, Request(batch, length, *self.sizes_of(name), *rest)) for name, m in self.memories.items()]

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        named = zip(self.memories, self.plans(length, batch, training), strict=True)
        return "\n".join(f"{name} heads\n{plan.explain()}" for name, plan in named)

    def flops(self, length: int) -> float:
        learned = sum(p.numel() for p in self.parameters())
        return sum(plan.flops for plan in self.plans(length)) + 2.0 * learned * length
