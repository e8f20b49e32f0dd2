"""A layer that only looks a few tokens back: a gated short convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, computed_in
from mnemos.layers.convolution import ShortConvolution
from mnemos.lowering.plan import readable
from mnemos.state import State


@dataclass(frozen=True)
class GatedConvolution(LayerDeclaration):
    """y = W_o (silu(conv(W_1 x)) * W_2 x), the convolution causal and channel by channel (BaseConv of Based, arXiv
    2402.18668).

    size: tokens that the convolution spans, the current one included. expand: channels inside, over width.
    """

    size: int = 3
    expand: float = 2.0

    def __post_init__(self) -> None:
        expect(self.size >= 2, f"GatedConvolution(size=) spans at least 2 tokens; got {self.size}.")
        expect(self.expand > 0, f"GatedConvolution(expand=) must be positive; got {self.expand}.")

    @property
    def kept(self) -> str:
        return f"the last {self.size - 1} inputs"

    def build(self, width: int, heads: int) -> GatedConvolutionLayer:
        return GatedConvolutionLayer(self, width, heads)


class GatedConvolutionLayer(Layer):
    """The layer that `GatedConvolution` describes. Its state: the convolution's last inputs."""

    def __init__(self, spec: GatedConvolution, width: int, heads: int):
        super().__init__()
        self.spec, self.width, self.heads = spec, width, heads
        self.inner = max(round(width * spec.expand), 1)
        self.project = nn.Linear(width, 2 * self.inner)
        self.conv = ShortConvolution(self.inner, spec.size)
        self.out = nn.Linear(self.inner, width)

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype = computed_in(weight)
        fresh = {"conv": torch.zeros(1, self.spec.size - 1, self.inner, dtype=dtype, device=weight.device)}
        return State(self.owner, fresh, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        mixed, gate = self.project(x).chunk(2, -1)
        mixed, past = self.conv(mixed, state["conv"], lengths)
        return self.out(F.silu(mixed) * gate), state.successor(conv=past)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        return (
            f"{self.spec}\n  runs by    shifted products over {self.spec.size} tokens\n"
            f"  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        return 2.0 * length * sum(p.numel() for p in self.parameters() if p.ndim == 2)
