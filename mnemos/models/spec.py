"""What a model is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mnemos.errors import InvalidType, expect, expect_kind
from mnemos.layers import LayerDeclaration, LayerSpec
from mnemos.memory import AnyMemory, Declaration
from mnemos.models.segments import Segments


@dataclass(frozen=True)
class ModelSpec(Declaration):
    """A stack of blocks: x + layer(norm(x)), then x + ffn(norm(x)).

    pattern: the layers, repeated until there are `depth` blocks; layer specs or bare memories. width: channels.
    heads: per layer; None for one every 64 channels. vocabulary: number of token ids; 257 is bytes and an end of
    document. ffn: hidden width of the feed-forward over `width`; 0 for none. feed_forward: "swiglu", W_3 (silu(W_1 x) *
    W_2 x), or "fan", W_2 [cos, sin, gelu](W_1 x), a quarter of it cosines and a quarter sines (arXiv 2410.02675).
    tied: the output layer shares
    the embedding's weights. scaled_embedding: embeddings are multiplied by sqrt(width). logit_cap: logits l become
    cap tanh(l / cap); None leaves them. segments: what a segment of the sequence hands to the next one, for models that
    read in segments, such as MemoryTokens(size=64); None for the others.
    """

    pattern: tuple[LayerDeclaration, ...]
    width: int = 256
    depth: int = 4
    heads: int | None = None
    vocabulary: int = 257
    ffn: float = 8 / 3
    tied: bool = True
    scaled_embedding: bool = False
    logit_cap: float | None = None
    feed_forward: Literal["swiglu", "fan"] = "swiglu"
    segments: Segments | None = None

    def __post_init__(self) -> None:
        pattern = self.pattern if isinstance(self.pattern, list | tuple) else (self.pattern,)
        expect(len(pattern) > 0, "ModelSpec(pattern=) names at least one layer.")
        layers = tuple(LayerSpec(p) if isinstance(p, AnyMemory) else p for p in pattern)
        for layer in layers:
            if not isinstance(layer, LayerDeclaration):
                raise InvalidType(
                    f"ModelSpec(pattern=) holds layer specs or memories, such as zoo.gated_deltanet(); got {layer!r}."
                )
        object.__setattr__(self, "pattern", layers)
        for name, least in (("width", 1), ("depth", 1), ("vocabulary", 1)):
            value = getattr(self, name)
            expect(
                isinstance(value, int) and value >= least,
                f"ModelSpec({name}=) is a whole number of at least {least}; got {value!r}.",
            )
        heads = self.number_of_heads
        expect(
            isinstance(heads, int) and heads >= 1 and self.width % heads == 0,
            f"ModelSpec(width=) must be a multiple of heads; got width={self.width}, heads={heads}.",
        )
        expect(
            self.logit_cap is None or self.logit_cap > 0,
            f"ModelSpec(logit_cap=) must be positive, or None for no cap; got {self.logit_cap}.",
        )
        expect(self.ffn >= 0, f"ModelSpec(ffn=) is a factor of at least 0; got {self.ffn}.")
        expect(
            self.feed_forward in ("swiglu", "fan"),
            f'ModelSpec(feed_forward=) is "swiglu" or "fan"; got {self.feed_forward!r}.',
        )
        if self.segments is not None:
            expect_kind(self.segments, Segments, "segments", "MemoryTokens(size=64)")
            self.segments.check(self.pattern)
            expect(
                self.delay == 0, "ModelSpec(segments=) is for layers that answer at once; those of WaitToAttend do not."
            )

    @property
    def kept(self) -> str:
        """What its layers keep, in a few words, and its segments."""
        layers = ", then ".join(layer.kept for layer in self.pattern)
        return layers if self.segments is None else f"{layers}; from segment to segment, {self.segments.kept}"

    @property
    def delay(self) -> int:
        """By how many tokens its logits come later than the tokens that they belong to: the sum over its layers."""
        return sum(layer.delay for layer in self.layers)

    @property
    def number_of_heads(self) -> int:
        """`heads`, or one every 64 channels."""
        return max(1, self.width // 64) if self.heads is None else self.heads

    @property
    def layers(self) -> tuple[LayerDeclaration, ...]:
        """One layer a block."""
        return tuple(self.pattern[i % len(self.pattern)].at(i, self.depth) for i in range(self.depth))
