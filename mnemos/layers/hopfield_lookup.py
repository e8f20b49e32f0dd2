"""Hopfield lookup: every token asks a Hopfield network of learned patterns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.lowering.plan import readable
from mnemos.memory import Hopfield
from mnemos.state import State


@dataclass(frozen=True)
class HopfieldLookup(LayerDeclaration):
    """The Hopfield layer with learned stored patterns P_1 ... P_n (arXiv 2008.02217), in the place of a feed-forward
    network.

        y = W_o o,   o = Hopfield network of the keys W_k P_i at W_q x, read as W_v P_i

    x and P are first normalised (LayerNorm). It keeps nothing between tokens but their number.

    entries: patterns. steps, eps: as in `Hopfield`. scale: None for 1/sqrt(width / heads).
    """

    entries: int = 256
    steps: int = 0
    eps: float = 1e-4
    scale: float | None = None

    def __post_init__(self) -> None:
        expect(self.entries >= 1, f"HopfieldLookup(entries=) is at least 1; got {self.entries}.")
        Hopfield(self.steps, self.eps, self.scale)

    @property
    def kept(self) -> str:
        return "nothing: its patterns are learned"

    def build(self, width: int, heads: int) -> HopfieldLookupLayer:
        return HopfieldLookupLayer(self, width, heads)


class HopfieldLookupLayer(Layer):
    """The layer that `HopfieldLookup` describes. Its state: `count`, the tokens seen."""

    def __init__(self, spec: HopfieldLookup, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads = spec, width, heads
        spec.to_json()  # compiled code can only read it
        self.read = Hopfield(spec.steps, spec.eps, spec.scale)
        self.patterns = nn.Parameter(0.02 * torch.randn(spec.entries, width))
        self.norm, self.pattern_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def fresh_state(self) -> State:
        return State(self.owner, fresh := {"count": torch.zeros(1, dtype=torch.int64, device=self.device)}, fresh)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.patterns.device

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        q = self.ask(self.norm(x)).unflatten(-1, (self.heads, -1))
        stored = self.project(self.pattern_norm(self.patterns))
        keys, values = (y.unflatten(-1, (self.heads, -1)).transpose(0, 1)[None] for y in stored.chunk(2, -1))
        asked = q.flatten(0, 1).transpose(0, 1)[None]  # (1, H, B T, K): all tokens ask the same patterns
        seen = torch.ones(1, 1, 1, self.spec.entries, dtype=torch.bool, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            o, _ = self.read.respond(asked, keys.to(q.dtype), values.to(q.dtype), seen, torch.zeros_like(seen), {})
        count = state["count"] + (x.shape[1] if lengths is None else lengths)
        return self.out(o[0].transpose(0, 1).reshape(x.shape)), state.successor(count=count)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        return (
            f"{self.spec}\n  runs by    {self.spec.steps} updates and a read of {self.spec.entries} learned patterns\n"
            f"  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        spec, width = self.spec, self.width
        return 2.0 * length * width * (2 * width + 2 * spec.entries * (1 + spec.steps)) + 4.0 * spec.entries * width**2
