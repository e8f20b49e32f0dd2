"""Recurrence within chunks, softmax attention to the chunks before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.lowering.plan import readable
from mnemos.memory.rotary import rotate
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


@dataclass(frozen=True)
class RecurrentChunks(LayerDeclaration):
    """RAT (arXiv 2507.04416). In chunks of `chunk` tokens, with gates g_t = sigmoid(W_g x_t + b) per channel,

        (K_t, V_t) = g_t (K_t-1, V_t-1) + (1 - g_t) (k_t, v_t)      from zero at the start of each chunk
        o_t = attention(q_t; the last (K, V) of every chunk before, and (K_t, V_t))
        y_t = W_o (sigmoid(W_z x_t) * o_t)

    q and K are turned by the number of their chunk. A chunk longer than the sequence is a gated recurrent network; a
    chunk of one token with g = 0 is softmax attention.

    groups: sets of queries and keys that the heads share, head h taking set h modulo groups; never more than heads.
    rotary: base of the rotation; None for none.
    """

    chunk: int = 16
    groups: int = 2
    rotary: float | None = 10000.0

    def __post_init__(self) -> None:
        expect(self.chunk >= 1, f"RecurrentChunks(chunk=) is a number of tokens of at least 1; got {self.chunk}.")
        expect(self.groups >= 1, f"RecurrentChunks(groups=) must be at least 1; got {self.groups}.")
        expect(
            self.rotary is None or self.rotary > 1,
            f"RecurrentChunks(rotary=) is a base above 1, or None; got {self.rotary}.",
        )

    @property
    def kept(self) -> str:
        return f"a key and a value every {self.chunk} tokens"

    def build(self, width: int, heads: int) -> RecurrentChunksLayer:
        return RecurrentChunksLayer(self, width, heads)


class RecurrentChunksLayer(Layer):
    """The layer that `RecurrentChunks` describes.

    Its state: keys (turned) and values (B, N, H, K) of the chunks that are complete, `slot` (B, N), the chunk's number
    + 1 or 0 where a place is empty, `running` (B, H, 2K), key and value of the open chunk, and `count` (B,) of tokens.
    """

    def __init__(self, spec: RecurrentChunks, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.head_dim = spec, width, heads, width // heads
        self.groups = min(spec.groups, heads)
        expect(
            heads % self.groups == 0, f"heads must be a multiple of groups; got {heads} heads and {self.groups} groups."
        )
        expect(
            spec.rotary is None or self.head_dim % 2 == 0,
            f"rotary positions need an even width per head; got {self.head_dim}.",
        )
        shared = self.groups * self.head_dim
        self.sizes = [width, width, width, shared, shared]
        self.project = nn.Linear(width, sum(self.sizes), bias=False)
        # A channel's memory starts at up to a chunk (chrono initialisation).
        self.gate_bias = nn.Parameter(torch.empty(width).uniform_(1, max(spec.chunk - 1, 1)).log())
        self.out = nn.Linear(width, width, bias=False)

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        empty = torch.zeros(1, 0, self.heads, self.head_dim, dtype=dtype, device=weight.device)
        fresh = {
            "keys": empty,
            "values": empty,
            "slot": torch.zeros(1, 0, dtype=torch.int64, device=weight.device),
            "running": torch.zeros(1, self.heads, 2 * self.head_dim, dtype=wide, device=weight.device),
            "count": torch.zeros(1, dtype=torch.int64, device=weight.device),
        }
        return State(self.owner, fresh, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        size, count, wide = self.spec.chunk, state["count"], state["running"].dtype
        z, v, g, q, k = self.project(x).split(self.sizes, -1)
        gate = torch.sigmoid(g.to(wide) + self.gate_bias).unflatten(-1, (self.heads, -1))
        q, k = (y.unflatten(-1, (self.groups, -1)).repeat(1, 1, self.heads // self.groups, 1) for y in (q, k))
        pair = torch.cat([k, v.unflatten(-1, (self.heads, -1))], -1).to(wide)
        phase, length = count % size, x.shape[1]
        (q, pair, gate), real = shift_to_chunks([q, pair, gate], phase, lengths, size)
        gate = torch.where(real[:, :, None, None], gate, 1.0)
        running = _recur(torch.cat([gate, gate], -1), pair, state["running"], size)

        # Chunks by their numbers; those that the new tokens complete are kept.
        end = count + (length if lengths is None else lengths)
        number = (count // size)[:, None] + torch.arange(running.shape[1], device=x.device)
        keys, values = running[:, :, -1].to(state["keys"].dtype).chunk(2, -1)
        turned = keys if self.spec.rotary is None else rotate(keys, number, self.spec.rotary)
        slot = torch.where(number < (end // size)[:, None], number + 1, 0)
        if not torch.compiler.is_compiling():  # compiled code cannot look at values, and keeps empty places
            kept = max(int((slot > 0).sum(1).max()), 0)
            turned, values, slot = turned[:, :kept], values[:, :kept], slot[:, :kept]
        kept_keys, kept_values, kept_slot = (
            torch.cat([state[name], new], 1) for name, new in (("keys", turned), ("values", values), ("slot", slot))
        )
        with torch.autocast(x.device.type, enabled=False):
            o = self._attend(q, running.flatten(1, 2), number, kept_keys, kept_values, kept_slot)
        o = shift_back(o, phase, length).flatten(-2).to(z.dtype)

        open_chunk = ((end - 1) // size - count // size).clamp(min=0)
        last = running[torch.arange(len(count), device=x.device), open_chunk, -1]
        entries = {"keys": kept_keys, "values": kept_values, "slot": kept_slot, "count": end}
        last = torch.where((end % size > 0)[:, None, None], last, 0.0)
        return self.out(torch.sigmoid(z) * o), state.successor(**entries, running=last)

    def _attend(self, q: Tensor, own: Tensor, number: Tensor, keys: Tensor, values: Tensor, slot: Tensor) -> Tensor:
        """q (B, T, H, K) and own keys and values (B, T, H, 2K) of chunks `number` (B, N), the kept ones (B, M, ...)."""
        q = q.to(own.dtype)
        own_key, own_value = own.chunk(2, -1)
        chunk = number.repeat_interleave(self.spec.chunk, 1)
        asked = q if self.spec.rotary is None else rotate(q, chunk, self.spec.rotary)
        scale = 1 / math.sqrt(self.head_dim)
        far = torch.einsum("bthk,bmhk->bthm", asked, keys.to(own.dtype)) * scale
        seen = (slot[:, None] > 0) & (slot[:, None] <= chunk[:, :, None])
        near = (q * own_key).sum(-1, keepdim=True) * scale  # in the same chunk: turned alike
        weights = torch.softmax(torch.cat([far.masked_fill(~seen[:, :, None], -torch.inf), near], -1), -1)
        return torch.einsum("bthm,bmhk->bthk", weights[..., :-1], values.to(own.dtype)) + weights[..., -1:] * own_value

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        return (
            f"{self.spec}\n  runs by    a parallel scan inside chunks of {self.spec.chunk} tokens, then a softmax over"
            f" {length // self.spec.chunk} chunks\n  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        matrices = sum(p.numel() for p in self.parameters() if p.ndim == 2)
        rounds = max(self.spec.chunk - 1, 1).bit_length()
        attention = 2.0 * self.width * (length / self.spec.chunk + 2)
        return length * (2.0 * matrices + attention + 8.0 * rounds * self.width)


def _recur(gate: Tensor, x: Tensor, start: Tensor, size: int) -> Tensor:
    """y_t = gate_t y_t-1 + (1 - gate_t) x_t in chunks of `size` tokens, from `start` (B, ...) in the first chunk and
    zero in all others: (B, T, ...) -> (B, T / size, size, ...).

    Recurrences over 1, 2, 4 ... tokens are put together two by two; nothing is divided, and a gate of 0 is exact.
    """
    kept, y = (z.unflatten(1, (-1, size)) for z in (gate, (1 - gate) * x))
    first = torch.cat([y[:, :1, :1] + kept[:, :1, :1] * start[:, None, None], y[:, 1:, :1]], 1)
    y = torch.cat([first, y[:, :, 1:]], 2)
    span = 1
    while span < size:
        y = torch.cat([y[:, :, :span], y[:, :, span:] + kept[:, :, span:] * y[:, :, :-span]], 2)
        kept = torch.cat([kept[:, :, :span], kept[:, :, span:] * kept[:, :, :-span]], 2)
        span *= 2
    return y
