"""A learned bank of keys and values, in the place of a feed-forward network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.layers.leaky_keys import FASTER, LeakyKeys
from mnemos.lowering.plan import readable
from mnemos.state import State


@dataclass(frozen=True)
class PersistentMemory(LayerDeclaration):
    """The persistent memory unit of Memory Mosaics (arXiv 2405.06394): pairs that are learned, not collected.

        s_t = exp(-|b|) s_t-1 + W_k x_t,   q_t = e^2a s_t / |s_t|
        o_t = e^u sum_i softmax_i(q_t . P_i) R_i,   y = W_o o

    a, b and u are learned, one a head; P and R are the bank.

    entries: pairs (P_i, R_i) a head.
    """

    entries: int = 2688

    def __post_init__(self) -> None:
        expect(self.entries >= 1, f"PersistentMemory(entries=) must be at least 1; got {self.entries}.")

    @property
    def kept(self) -> str:
        return "a leaky sum of keys"

    def build(self, width: int, heads: int) -> PersistentMemoryLayer:
        return PersistentMemoryLayer(self, width, heads)


class PersistentMemoryLayer(Layer):
    """The layer that `PersistentMemory` describes. Its state: `key_memory`, the leaky sum."""

    def __init__(self, spec: PersistentMemory, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads = spec, width, heads
        size = width // heads
        self.keys = LeakyKeys(width, heads, power=2.0)
        self.bank_keys = nn.Parameter(torch.randn(heads, spec.entries, size) / size**0.5)
        self.bank_values = nn.Parameter(torch.randn(heads, spec.entries, size) / size**0.5)
        self.value_scale = nn.Parameter(torch.full((heads,), -0.5 / FASTER))
        self.out = nn.Linear(width, width, bias=False)

    def fresh_state(self) -> State:
        return State(self.owner, {"key_memory": self.keys.fresh_state()})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        q, key_memory = self.keys(x, state.child("key_memory"), lengths)
        dtype = computed_in(x)
        with torch.autocast(x.device.type, enabled=False):
            asked = q.to(dtype).flatten(0, 1).transpose(0, 1)  # (H, B T, K): all tokens ask the same bank
            keys, values = (p.to(dtype)[None] for p in (self.bank_keys, self.bank_values))
            o = F.scaled_dot_product_attention(asked[None], keys, values, scale=1.0)[0]
            o = o * torch.exp(FASTER * self.value_scale).to(dtype)[:, None, None]
        o = o.transpose(0, 1).reshape(x.shape)
        return self.out(o), state.successor(key_memory=key_memory)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        return (
            f"{self.spec}\n  runs by    scaled dot product attention to {self.spec.entries} learned pairs a head\n"
            f"  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        learned = self.out.weight.numel() + self.bank_keys.numel() + self.bank_values.numel()
        return self.keys.flops(length) + 2.0 * learned * length
