"""What all stacks of blocks share: one way through the layers, one state, one bill."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import Diverged, InvalidValue, expect, expect_kind
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


class Stack(nn.Module):
    """The blocks of a `ModelSpec` between an input layer and an output layer.

    A model of a kind of its own sets `embedding` and calls `_blocks`, sets its output layer and calls `_start`, and
    gives what is abstract here.
    """

    outputs: int
    """Channels of the output."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        expect_kind(
            spec,
            ModelSpec,
            f"{type(self).__name__}(spec)",
            "ModelSpec(pattern=[zoo.gated_deltanet()], width=256, depth=4)",
        )
        self.spec, self.delay = spec, spec.delay
        spec.to_json()  # compiled code can only read it

    def _blocks(self) -> None:
        spec = self.spec
        hidden = max(round(spec.width * spec.ffn / 8) * 8, 8) if spec.ffn else 0
        sizes = (spec.width, spec.number_of_heads, hidden, spec.feed_forward)
        self.blocks = nn.ModuleList(Block(layer, *sizes) for layer in spec.layers)
        self.norm = RMSNorm(spec.width)
        self.carried = (
            None if spec.segments is None else spec.segments.build(spec.width, spec.number_of_heads, spec.layers)
        )

    def _start(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(
                ("out.weight", "ffn.down.weight")
            ):  # what a block adds: less of it the more blocks there are
                nn.init.normal_(parameter, std=(2 * self.spec.depth * parameter.shape[1]) ** -0.5)

    @property
    @abstractmethod
    def _weight(self) -> Tensor:
        """A weight of the input layer, for its dtype and device."""

    @abstractmethod
    def _embedded(self, inputs: Tensor) -> Tensor:
        """Inputs (rows, time, ...) as (rows, time, width)."""

    @abstractmethod
    def answered(self, x: Tensor) -> Tensor:
        """What comes out behind the last norm (rows, time, width) as outputs (rows, time, outputs)."""

    @abstractmethod
    def _check_inputs(self, inputs: Tensor) -> None:
        """Raises InvalidType or InvalidValue unless this model can read them."""

    @abstractmethod
    def _some_inputs(self, length: int) -> Tensor:
        """One row of that many inputs."""

    @property
    @abstractmethod
    def _ends_flops(self) -> float:
        """Operations per token of the input and the output layer."""

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
            parts["segments"] = self.carried.fresh_state(self._weight)
        if self.delay:
            parts["late"] = late_state(list(self.blocks), self._weight.new_empty(self.spec.width))
        return State(self.owner, parts).expand(batch)

    def layers(self) -> list[Layer]:
        """The memory layer of every block, from the bottom up."""
        return [block.layer for block in self.blocks]  # pyright: ignore[reportReturnType]

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state is one of this model's."""
        state.check(self.owner, state.batch, type(self).__name__)

    def _read(
        self, inputs: Tensor, state: State | None, reset: Tensor | None, mask: Tensor | None, checks: bool
    ) -> tuple[Tensor, State]:
        """`forward`, whatever the inputs are."""
        self._check_inputs(inputs)
        check_flags("reset", reset, *inputs.shape[:2])
        check_flags("mask", mask, *inputs.shape[:2])
        if state is None:
            state = self.init_state(inputs.shape[0])
        else:
            where = type(self).__name__
            expect_state(state, where).check(self.owner, inputs.shape[0], where, inputs.device)
        if not inputs.numel():
            return self._weight.new_zeros(*inputs.shape[:2], self.outputs), state
        if checks:
            return self._checked(inputs, state, reset, mask)
        return over_documents(lambda x, s, lengths: self._rows(x[0], s, lengths), [inputs], state, reset, mask)

    def _checked(self, inputs: Tensor, state: State, reset: Tensor | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Raises Diverged unless the results are finite."""
        unfit = [name for name, weight in self.named_parameters() if not bool(torch.isfinite(weight).all())]
        if unfit:
            more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
            raise Diverged(f"weights of the model are not finite themselves: {unfit[0]}{more}.")
        failures = Failures()

        def rows(x: list[Tensor], s: State, lengths: Tensor | None) -> tuple[Tensor, State]:
            return self._rows(x[0], s, lengths, failures)

        return checked_over_documents(rows, [inputs], state, reset, mask, failures)

    def _rows(
        self, inputs: Tensor, state: State, lengths: Tensor | None, failures: Failures | None = None
    ) -> tuple[Tensor, State]:
        """failures: is told which layer is under way, and of one whose output is not finite."""
        x = self._embedded(inputs)
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
        return self.answered(x), state.successor(**{str(i): layer for i, layer in enumerate(layers)}, **after)

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
        if self.carried is None:
            return self._ends_flops + 2.0 * dense + sum(layer.flops(context) for layer in self.layers()) / context
        layers = sum(self.carried.layer_flops(layer.flops, context) for layer in self.layers())
        fed = context + self.carried.further_tokens(context)
        return self._ends_flops + (2.0 * dense * fed + layers + self.carried.flops(context)) / context

    def state_bytes(self, context: int = 0) -> int:
        """Bytes of one row's state after `context` tokens; constant unless a layer keeps everything."""
        with torch.no_grad():
            state = self.init_state(1)
            if context:
                _, state = self(self._some_inputs(context), state)
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
