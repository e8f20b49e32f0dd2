"""Chunks of the past, found by their means and read in detail: hierarchical chunk attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.lowering import run_rows
from mnemos.memory import Address, EpisodicMemory, Every, Recall
from mnemos.state import State


@dataclass(frozen=True)
class ChunkRecall(LayerDeclaration):
    """Hierarchical chunk attention memory (HCAM, arXiv 2105.14039). Inputs are stored in chunks of C = `chunk` tokens,
    X_m; a token asks the finished chunks before its own, as it sees them, x:

        s_m = (W_q x) . (W_k mean(X_m)) / sqrt(width),   w = softmax of s over the `chosen` largest
        y = sum_m w_m MHA(query = x, keys = values = X_m + P)

    P are sinusoids of the place in the chunk, 0 for its last token; all chunks share the projections. What is stored
    takes no gradient back to the inputs it came from. Before the first chunk is finished, y = 0.

    keep: how many chunks are kept, the newest; None for all. kv_heads: heads of W_k and of keys and values where they
    are fewer: neighbouring heads of queries then share one.
    """

    chunk: int = 32
    chosen: int = 8
    keep: int | None = None
    kv_heads: int | None = None

    def __post_init__(self) -> None:
        expect(self.chunk >= 1, f"ChunkRecall(chunk=) is a number of tokens of at least 1; got {self.chunk}.")
        expect(self.chosen >= 1, f"ChunkRecall(chosen=) is a number of chunks of at least 1; got {self.chosen}.")
        expect(
            self.keep is None or self.keep >= self.chosen,
            f"ChunkRecall(keep=) must hold the {self.chosen} chunks that are chosen; got {self.keep}.",
        )
        expect(
            self.kv_heads is None or self.kv_heads >= 1, f"ChunkRecall(kv_heads=) is at least 1; got {self.kv_heads}."
        )

    @property
    def memory(self) -> EpisodicMemory:
        """The memory within."""
        return EpisodicMemory(Every(self.chunk), Address(), Recall(self.chosen), together=False, keep=self.keep)

    @property
    def kept(self) -> str:
        return self.memory.kept

    def build(self, width: int, heads: int) -> ChunkRecallLayer:
        return ChunkRecallLayer(self, width, heads)


class ChunkRecallLayer(Layer):
    """The layer that `ChunkRecall` describes. Its state: the memory's."""

    def __init__(self, spec: ChunkRecall, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        expect(width % 2 == 0, f"ChunkRecall needs an even width, for sines and cosines; got {width}.")
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        spec.to_json()  # compiled code can only read it
        self.memory.to_json()
        self.kv_heads = spec.kv_heads or heads
        expect(heads % self.kv_heads == 0, f"heads must be a multiple of kv_heads; got {heads} and {self.kv_heads}.")
        stored = width // heads * self.kv_heads
        self.ask = nn.Linear(width, 2 * width, bias=False)  # for chunks, and within them
        self.address = nn.Linear(width, stored, bias=False)
        self.detail = nn.Linear(width, 2 * stored, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype, sizes = computed_in(weight), (self.kv_heads, *self.memory_sizes[1:])
        memory = self.memory.init(1, *sizes, None, self.memory.state_dtype(dtype), weight.device)
        return State(self.owner, {"memory": memory})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        inner = state.child("memory")
        place = inner["count"][:, None] + torch.arange(x.shape[1], device=x.device)
        stored = x.detach()
        placed = stored + sinusoids(self.spec.chunk - 1 - place % self.spec.chunk, self.width).to(x.dtype)
        asking, q = self.ask(x).chunk(2, -1)
        k, v = self.detail(placed).chunk(2, -1)
        size = self.width // self.heads
        asking, q, address, k, v = (y.unflatten(-1, (-1, size)) for y in (asking, q, self.address(stored), k, v))
        controls = {"address": address, "asking": asking}
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            o, memory = run_rows(self.memory, q, k, v, controls, inner, lengths)
        return self.out(o.flatten(-2).to(x.dtype)), state.successor(memory=memory)


def sinusoids(position: Tensor, width: int) -> Tensor:
    """(...) -> (..., width): sines, then cosines, of position * 10000^(-2i/width) for i < width/2."""
    half = torch.arange(width // 2, device=position.device, dtype=torch.float64)
    angle = position[..., None] * torch.exp(-math.log(10000.0) * half / (width // 2))
    return torch.cat([angle.sin(), angle.cos()], -1)
