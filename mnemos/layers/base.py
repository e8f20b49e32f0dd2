"""What all layers share: `layer(x, state) -> (y, state)`, always both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mnemos.declaration import Declaration
from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.lowering import Plan, Request, checked_over_documents, lower
from mnemos.memory.checks import check_finite
from mnemos.state import Owner, State, expect_state, over_documents
from mnemos.state.documents import check_flags


class LayerDeclaration(Declaration):
    """A frozen description of a layer. Adding a kind of layer: a declaration with `build`, and a `Layer`."""

    @property
    def kept(self) -> str:
        """What it keeps, in a few words."""
        raise NotImplementedError

    @property
    def delay(self) -> int:
        """By how many tokens its outputs come later than the inputs that they belong to."""
        return 0

    def build(self, width: int, heads: int) -> Layer:
        """The layer at this width, with fresh parameters."""
        raise NotImplementedError

    def at(self, index: int, depth: int) -> LayerDeclaration:
        """This declaration as block `index` of a model of `depth` blocks, for layers that depend on their place."""
        return self


class Layer(nn.Module):
    """A sequence layer with a memory. Subclasses give `fresh_state`, `rows` and `memory_sizes`, or in its place their
    own `explain` and `flops`."""

    spec: Any
    """Its declaration."""
    width: int
    heads: int
    memory: Any
    """What `memory_sizes` are the sizes of."""
    delay: int = 0
    """That of its declaration."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, Declaration):
            value.to_json()  # compiled code can only read it

    @property
    def owner(self) -> Owner:
        """Whose states these are."""
        return (("layer", self.spec.to_json()), ("width", self.width), ("heads", self.heads))

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        """Heads, key_dim and value_dim that its memory runs with."""
        raise NotImplementedError

    def fresh_state(self) -> State:
        """A one-row state that has seen nothing."""
        raise NotImplementedError

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """The layer itself, for checked inputs: one document a row, padded at its end beyond `lengths` (B,)."""
        raise NotImplementedError

    def plan(self, length: int, batch: int = 1, training: bool = False) -> Plan:
        """How the memory runs on `length` tokens."""
        weight = next(self.parameters())
        request = Request(batch, length, *self.memory_sizes, weight.dtype, weight.device.type, training)
        return lower(self.memory, request)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        """Which algorithm runs this layer on `length` tokens, why the faster ones declined, FLOPs and state bytes."""
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        return self.plan(length, batch, training).explain()

    def flops(self, length: int) -> float:
        """Floating point operations of the forward pass on one row of `length` tokens, to leading order."""
        matrices = sum(p.numel() for p in self.parameters() if p.ndim == 2)
        return self.plan(length).flops + 2.0 * matrices * length

    def init_state(self, batch: int) -> State:
        """A state for `batch` rows that have seen nothing. Differentiable by the learned initial memory."""
        if not isinstance(batch, int) or batch < 0:
            raise InvalidValue(f"init_state takes a number of rows; got {batch!r}.")
        return self.fresh_state().expand(batch)

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state is one of this layer's."""
        state.check(self.owner, state.batch, type(self).__name__)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        checks: bool = False,
    ) -> tuple[Tensor, State]:
        """All tokens in parallel, going on from `state`; streaming the pieces of a sequence gives the same numbers.

        x: (batch, time, width), floating point. reset: (batch, time) bool, the memory starts afresh before these
        tokens. mask: (batch, time) bool, False marks padding that neither writes nor reads. checks: whether to look
        for NaN and infinity in the results, and for where they came from. Returns y of x's shape and the state after
        the last token.

        Raises InvalidType or InvalidValue for a wrong dtype, shape or NaN, StateError for a state that is not this
        layer's or has another batch; with `checks`, Diverged if the results are not finite, naming row, head and
        token.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InvalidType(f"x must be a floating point tensor; got {getattr(x, 'dtype', type(x).__name__)}.")
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise InvalidValue(f"x must be (batch, time, {self.width}); got shape {tuple(x.shape)}.")
        dtype = next(self.parameters()).dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise InvalidType(f"x is {x.dtype} and the layer's weights are {dtype}: convert the one or the other.")
        check_finite("x", x)
        check_flags("reset", reset, *x.shape[:2])
        check_flags("mask", mask, *x.shape[:2])
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            where = type(self).__name__
            expect_state(state, where).check(self.owner, x.shape[0], where, x.device)
        if x.shape[0] == 0 or x.shape[1] == 0:
            return torch.zeros_like(x), state
        run = checked_over_documents if checks else over_documents
        return run(lambda inputs, s, lengths: self.rows(inputs[0], s, lengths), [x], state, reset, mask)


def computed_in(tensor: Tensor) -> torch.dtype:
    """The dtype of a layer's computation with this weight or input: its own, or autocast's where that is on."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def check_prompt(layer: LayerDeclaration, where: str) -> None:
    """Raises InvalidValue for a layer whose outputs come late."""
    expect(
        layer.delay == 0,
        f"{where} needs the output for a token with the token; those of {layer} come {layer.delay} tokens later.",
    )


def check_width(width: int, heads: int) -> None:
    """Raises InvalidValue unless `heads` divides `width`."""
    if not isinstance(width, int) or not isinstance(heads, int) or width < 1 or heads < 1:
        raise InvalidValue(f"width and heads are whole numbers of at least 1; got width={width!r}, heads={heads!r}.")
    if width % heads:
        raise InvalidValue(f"width must be a multiple of heads; got width={width}, heads={heads}.")
