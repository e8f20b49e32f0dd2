"""A language model: tokens in, logits of the next token out, a state between calls."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import Diverged, InvalidType, InvalidValue, expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.fourier import FourierFeatures
from mnemos.layers.norm import RMSNorm
from mnemos.lowering import Failures, checked_over_documents
from mnemos.lowering.plan import readable
from mnemos.models.segments import in_segments
from mnemos.models.spec import ModelSpec
from mnemos.models.waiting import in_waiting, late_state
from mnemos.state import Owner, State, expect_state, over_documents
from mnemos.state.documents import check_flags


class FeedForward(nn.Module):
    """SwiGLU: W_3 (silu(W_1 x) * W_2 x)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class FourierFeedForward(nn.Module):
    """FAN: W_2 [cos(W_p x + b_p), sin(W_p x + b_p), gelu(W_g x + b_g)]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = FourierFeatures(width, hidden, share=0.25, activation=F.gelu)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


FEED_FORWARD = {"swiglu": FeedForward, "fan": FourierFeedForward}


class Block(nn.Module):
    """x + layer(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, layer: LayerDeclaration, width: int, heads: int, hidden: int, feed_forward: str):
        super().__init__()
        self.norm = RMSNorm(width)
        self.layer: Layer = layer.build(width, heads)
        self.ffn_norm = RMSNorm(width) if hidden else None
        self.ffn = FEED_FORWARD[feed_forward](width, hidden) if hidden else None

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        x, state = self.mix(x, state, lengths)
        return self.feed(x), state

    def mix(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """The first half: x + layer(norm(x))."""
        y, state = self.layer.rows(self.norm(x), state, lengths)
        return x + y, state

    def feed(self, x: Tensor) -> Tensor:
        """The second half: x + ffn(norm(x))."""
        if self.ffn is not None and self.ffn_norm is not None:
            x = x + self.ffn(self.ffn_norm(x))
        return x


class LanguageModel(nn.Module):
    """The model that a `ModelSpec` describes."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        expect_kind(
            spec,
            ModelSpec,
            "LanguageModel(spec)",
            "ModelSpec(pattern=[zoo.gated_deltanet()], width=256, depth=4)",
        )
        self.spec, self.delay = spec, spec.delay
        spec.to_json()  # compiled code can only read it
        hidden = max(round(spec.width * spec.ffn / 8) * 8, 8) if spec.ffn else 0
        self.embedding = nn.Embedding(spec.vocabulary, spec.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        sizes = (spec.width, spec.number_of_heads, hidden, spec.feed_forward)
        self.blocks = nn.ModuleList(Block(layer, *sizes) for layer in spec.layers)
        self.norm = RMSNorm(spec.width)
        self.carried = (
            None if spec.segments is None else spec.segments.build(spec.width, spec.number_of_heads, spec.layers)
        )
        self.head = None if spec.tied else nn.Linear(spec.width, spec.vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith(
                ("out.weight", "ffn.down.weight")
            ):  # what a block adds: less of it the more blocks there are
                nn.init.normal_(parameter, std=(2 * spec.depth * parameter.shape[1]) ** -0.5)

    @property
    def owner(self) -> Owner:
        """Whose states these are."""
        return (("model", self.spec.to_json()),)

    def init_state(self, batch: int) -> State:
        """A state for `batch` rows that have seen nothing."""
        if not isinstance(batch, int) or batch < 0:
            raise InvalidValue(f"init_state takes a number of rows; got {batch!r}.")
        parts = {str(i): layer.fresh_state() for i, layer in enumerate(self.layers())}
        if self.carried is not None:
            parts["segments"] = self.carried.fresh_state(self.embedding.weight)
        if self.spec.delay:
            parts["late"] = late_state(list(self.blocks), self.embedding.weight)
        return State(self.owner, parts).expand(batch)

    def layers(self) -> list[Layer]:
        """The memory layer of every block, from the bottom up."""
        return [block.layer for block in self.blocks]  # pyright: ignore[reportReturnType]

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state is one of this model's."""
        state.check(self.owner, state.batch, "LanguageModel")

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        checks: bool = False,
    ) -> tuple[Tensor, State]:
        """Logits for the token after each one, and the state after the last.

        tokens: (batch, time) int64 in [0, vocabulary). reset: (batch, time) bool, every memory starts afresh before
        these tokens (documents packed into one row). mask: (batch, time) bool, False marks padding; its logits are
        zero. Where layers answer late (`spec.delay`) they belong to an earlier token, and are zero at the first ones.
        checks: whether to look for NaN and infinity in the results, and for where they came from. Returns logits
        (batch, time, vocabulary).

        Raises InvalidType or InvalidValue for tokens of wrong dtype, shape or range, StateError for a state of
        another model or batch; with `checks`, Diverged if the results are not finite, naming row, layer, head and
        token, or the weights that are not finite themselves.
        """
        self._check_tokens(tokens)
        check_flags("reset", reset, *tokens.shape)
        check_flags("mask", mask, *tokens.shape)
        if state is None:
            state = self.init_state(tokens.shape[0])
        else:
            expect_state(state, "LanguageModel").check(self.owner, tokens.shape[0], "LanguageModel", tokens.device)
        if not tokens.numel():
            return self.embedding.weight.new_zeros(*tokens.shape, self.spec.vocabulary), state
        if checks:
            return self._checked(tokens, state, reset, mask)
        return over_documents(
            lambda inputs, s, lengths: self._rows(inputs[0], s, lengths), [tokens], state, reset, mask
        )

    def _checked(self, tokens: Tensor, state: State, reset: Tensor | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Raises Diverged unless the results are finite."""
        unfit = [name for name, weight in self.named_parameters() if not bool(torch.isfinite(weight).all())]
        if unfit:
            more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
            raise Diverged(f"weights of the model are not finite themselves: {unfit[0]}{more}.")
        failures = Failures()

        def rows(inputs: list[Tensor], s: State, lengths: Tensor | None) -> tuple[Tensor, State]:
            return self._rows(inputs[0], s, lengths, failures)

        return checked_over_documents(rows, [tokens], state, reset, mask, failures)

    def _rows(
        self, tokens: Tensor, state: State, lengths: Tensor | None, failures: Failures | None = None
    ) -> tuple[Tensor, State]:
        """failures: is told which layer is under way, and of one whose output is not finite."""
        x = self.embedding(tokens)
        if self.spec.scaled_embedding:
            x = x * self.spec.width**0.5
        layers, after = [state.child(str(i)) for i in range(len(self.blocks))], {}

        def note(i: int, y: Tensor) -> None:
            if failures is not None:
                failures.output(y)
                failures.layer = (i + 1) % len(self.blocks)  # segments go through all blocks in turn

        if failures is not None:
            failures.layer = 0
        if self.delay:
            x, layers, after["late"] = in_waiting(list(self.blocks), x, layers, state.child("late"), lengths, note)
            x = self.norm(x)
        elif self.carried is None:
            for i, block in enumerate(self.blocks):
                x, layers[i] = block(x, layers[i], lengths)
                note(i, x)
            x = self.norm(x)
        else:
            blocks, carried = list(self.blocks), state.child("segments")
            x, layers, after["segments"] = in_segments(
                blocks, self.norm, self.carried, x, layers, carried, lengths, note
            )
        return self.logits(x), state.successor(**{str(i): layer for i, layer in enumerate(layers)}, **after)

    def logits(self, x: Tensor) -> Tensor:
        """What the model says of x (..., width), the output of its last norm."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        logits, cap = F.linear(x, weight), self.spec.logit_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _check_tokens(self, tokens: Tensor) -> None:
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
            raise InvalidType(f"tokens must be an int64 tensor; got {getattr(tokens, 'dtype', type(tokens).__name__)}.")
        if tokens.ndim != 2:
            raise InvalidValue(f"tokens must be (batch, time); got shape {tuple(tokens.shape)}.")
        if torch.compiler.is_compiling() or not tokens.numel():
            return
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.spec.vocabulary:
            raise InvalidValue(f"tokens must lie in [0, {self.spec.vocabulary}); got values from {low} to {high}.")

    def parameters_count(self) -> int:
        """Learned numbers, shared ones counted once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, context: int) -> float:
        """Floating point operations of the forward pass per token, within a sequence of `context` tokens."""
        expect(
            isinstance(context, int) and context >= 1,
            f"the number of tokens must be a whole number of at least 1; got {context!r}.",
        )
        dense = sum(p.numel() for name, p in self.blocks.named_parameters() if ".ffn." in name)
        output = 2.0 * self.spec.vocabulary * self.spec.width
        if self.carried is None:
            return output + 2.0 * dense + sum(layer.flops(context) for layer in self.layers()) / context
        layers = sum(self.carried.layer_flops(layer.flops, context) for layer in self.layers())
        fed = context + self.carried.further_tokens(context)
        return output + (2.0 * dense * fed + layers + self.carried.flops(context)) / context

    def state_bytes(self, context: int = 0) -> int:
        """Bytes of one row's state after `context` tokens; constant unless a layer keeps everything."""
        with torch.no_grad():
            state = self.init_state(1)
            if context:
                _, state = self(torch.zeros(1, context, dtype=torch.int64, device=self.embedding.weight.device), state)
        return state.nbytes

    def explain(self, length: int = 4096) -> str:
        """How every kind of layer runs, and what the whole model costs."""
        lines = [
            f"{self.parameters_count():,} parameters, {self.spec.depth} blocks of width {self.spec.width}; "
            f"{readable(self.flops_per_token(length), 1000, 'FLOP')} a token forward"
        ]
        if self.carried is not None:
            lines += ["", self.carried.explain()]
        seen: set[LayerDeclaration] = set()
        for layer, spec in zip(self.layers(), self.spec.layers, strict=True):
            if spec not in seen:
                seen.add(spec)
                lines += [
                    "",
                    f"layer in {self.spec.layers.count(spec)} of {self.spec.depth} blocks:",
                    layer.explain(length if self.carried is None else self.carried.span(length)),
                ]
        return "\n".join(lines)
