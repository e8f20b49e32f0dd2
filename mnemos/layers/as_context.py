"""A memory that hands attention what it remembers, segment by segment (Titans' memory as a context)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.layers.norm import RMSNorm
from mnemos.memory import GD, Memory
from mnemos.memory.rotary import rotate
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


@dataclass(frozen=True)
class AsContext(LayerDeclaration):
    """Titans' memory as a context (arXiv 2501.00663, eqs. 21-25). In each segment of `memory.chunk` tokens,

        h_i = M_0*(q_i)                              what the memory knew before the segment
        y_i = attention(x_i; P, h_1..h_i, x_1..x_i)  with learned persistent tokens P
        M_i = M_i-1 written with y_i
        o_i = norm(y_i) * sigmoid(norm(M_i*(y_i)))

    Causal, unlike the paper's equations: there, token i also sees h_j of later tokens j, whose queries are made from
    those tokens, and the gate reads the memory of the segment's end.

    memory: a layer around a `Memory` whose learner is anchored at chunks as long as the segment.
    """

    memory: LayerSpec
    persistent: int = 4

    def __post_init__(self) -> None:
        expect_kind(self.memory, LayerSpec, "memory", "zoo.titans_lmm(chunk=32)")
        inner = self.memory.memory
        expect(
            isinstance(inner, Memory) and isinstance(inner.learner, GD) and inner.learner.anchored,
            "AsContext(memory=) needs a memory whose gradients are anchored at its segments, "
            f"for example zoo.titans_lmm(chunk=32); got {inner}.",
        )
        expect(self.persistent >= 0, f"AsContext(persistent=) is a number of tokens; got {self.persistent}.")

    @property
    def kept(self) -> str:
        return f"attention over segments and what is recalled from {self.memory.kept}"

    def build(self, width: int, heads: int) -> ContextLayer:
        return ContextLayer(self, width, heads)


class ContextLayer(Layer):
    """The layer that `AsContext` describes. Its state: the memory's, and the keys and values of the open segment."""

    def __init__(self, spec: AsContext, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.head_dim = spec, width, heads, width // heads
        expect(self.head_dim % 2 == 0, f"rotary positions need an even width per head; got {self.head_dim}.")
        assert isinstance(spec.memory.memory, Memory) and isinstance(spec.memory.memory.learner, GD)
        self.segment = spec.memory.memory.learner.chunk
        self.memory = MemoryLayer(spec.memory, width=width, heads=heads)
        self.recall = nn.Linear(width, heads * self.memory.key_dim, bias=False)
        self.recalled = nn.Linear(heads * self.memory.value_dim, width, bias=False)
        self.recalled_norm = RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.out_norm, self.gate_norm = RMSNorm(width), RMSNorm(width)
        self.persistent = nn.Parameter(torch.randn(spec.persistent, width) * 0.02)

    def fresh_state(self) -> State:
        like = self.out.weight
        empty = torch.zeros(1, self.segment, 2, 2, self.width, dtype=like.dtype, device=like.device)
        fresh = {"segment": empty, "phase": torch.zeros(1, dtype=torch.int64, device=like.device)}
        return State(self.owner, {"memory": self.memory.fresh_state(), **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        length, size, phase = x.shape[1], self.segment, state["phase"]
        (x,), real = shift_to_chunks([x], phase, lengths, size)
        memory, segment = state.child("memory"), state["segment"]
        already = (torch.arange(size, device=x.device) < phase[:, None])[:, :, None, None, None]
        outputs = []
        for piece, live in zip(x.split(size, 1), real.split(size, 1), strict=True):
            # Keys and values of what is recalled and of the tokens themselves: (B, size, 2, 2, width).
            sources = torch.stack([self._recall(piece, memory), piece], 2)
            entries = self.key_value(sources).unflatten(-1, (2, self.width))
            if not outputs:
                entries = torch.where(already, segment.to(entries.dtype), entries)
            y = self._attend(piece, entries)
            m, memory = self._learn(y, memory, live)
            outputs.append(self.out_norm(y) * torch.sigmoid(self.gate_norm(m)))
            touched = live.any(1)[:, None, None, None, None]
            segment = torch.where(touched, entries.to(segment.dtype), segment)
        out = shift_back(torch.cat(outputs, 1), phase, length)
        phase = (phase + (length if lengths is None else lengths)) % size
        return out, state.successor(memory=memory, segment=segment, phase=phase)

    def _learn(self, y: Tensor, memory: State, live: Tensor) -> tuple[Tensor, State]:
        """The memory written with y (B, size, width) and read by it; other tokens than live ones do neither."""
        if not torch.compiler.is_compiling() and bool(live.all()):
            return self.memory.rows(y, memory, None)
        # The live tokens of a row stand together, but not at its beginning where its segment was open already.
        begin, place = live.long().argmax(1)[:, None], torch.arange(self.segment, device=y.device)
        m, memory = self.memory.rows(_pick(y, place + begin), memory, live.sum(1))
        return _pick(m, place - begin), memory

    def _recall(self, x: Tensor, state: State) -> Tensor:
        """What the memory as it stood before the segment answers to x, (B, T, width)."""
        memory, inner = self.memory.memory, state.child("memory")
        assert isinstance(memory, Memory)
        names = [name for name in inner.fresh if f"anchor.{name}" in inner.fresh]
        opens = (inner["phase"] == 0)[:, None, None, None]
        start = {name: torch.where(opens, inner[name], inner[f"anchor.{name}"]) for name in names}
        q = F.normalize(F.silu(self.recall(x)).unflatten(-1, (self.heads, -1)), dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            answer = memory.read(inner.successor(**start), q)
        return self.recalled_norm(self.recalled(answer.flatten(-2).to(x.dtype)))

    def _attend(self, x: Tensor, entries: Tensor) -> Tensor:
        """Causal attention over persistent tokens, recalled tokens and the segment, in this order of positions."""
        size, kept = self.segment, self.spec.persistent
        batch = x.shape[0]
        always = self.key_value(self.persistent).unflatten(-1, (2, self.width)).expand(batch, -1, -1, -1)
        kv = torch.cat([always, entries[:, :, 0], entries[:, :, 1]], 1)  # (B, N, 2, width)
        k, v = (y.unflatten(-1, (self.heads, -1)) for y in kv.unbind(2))
        q = self.query(x).unflatten(-1, (self.heads, -1))
        position = torch.arange(kept + 2 * size, device=x.device)
        q = rotate(q, position[-size:], 10000.0).transpose(1, 2)
        k = rotate(k, position, 10000.0).transpose(1, 2)
        causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        seen = torch.cat([causal.new_ones(size, kept), causal, causal], 1)
        y = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), seen, scale=1 / math.sqrt(self.head_dim))
        return self.out(y.transpose(1, 2).flatten(-2))

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        return (
            f"segments of {self.segment} tokens, one after another; in each, attention over {self.spec.persistent} "
            f"persistent, {self.segment} recalled and {self.segment} own tokens, then the memory:\n"
            + self.memory.explain(min(length, self.segment), batch, training)
        )

    def flops(self, length: int) -> float:
        matrices = sum(p.numel() for n, p in self.named_parameters() if p.ndim == 2 and not n.startswith("memory."))
        pairs = self.spec.persistent + 2 * self.segment
        attention = 4.0 * pairs * self.width + 2.0 * 2 * self.width * self.width  # keys of the recalled tokens too
        recall = 2.0 * sum(p[0].numel() for p in self.memory.initial.values()) * self.heads
        return self.memory.flops(length) + length * (2.0 * matrices + attention + recall)


def _pick(x: Tensor, places: Tensor) -> Tensor:
    """x (B, T, width) at places (B, T), those beyond either end taken from that end."""
    return x.gather(1, places.clamp(0, x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[-1]))
