"""Models that read in segments, and what a segment hands to the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mnemos.declaration import Declaration
from mnemos.layers import LayerDeclaration
from mnemos.state import Owner, State


class Segments(Declaration):
    """A frozen description of how a model reads in segments: a field of `ModelSpec`.

    Adding a kind: a declaration with `kept`, `check` and `build`, and a `Carried`, which overrides those of its hooks
    that the system needs. In each segment of `size` tokens, for rows whose segment begins or ends here,

        begin                     once, before its first token
        first, last               memory tokens before and behind the segment's own; they go through all blocks
        enter(i), between(i)      at the input of block i; between its layer and its feed-forward network
        leave(i)                  at the output of block i, for the tokens of `last`
        end                       once, behind its last token

    and, where it `restarts`, every layer starts afresh. Tokens arrive in pieces of any length, and rows stand at
    different places: `in_segments` brings them to the hooks in pieces that lie within a segment.
    """

    @property
    def kept(self) -> str:
        """What a segment hands to the next one, in a few words."""
        raise NotImplementedError

    def check(self, layers: Sequence[LayerDeclaration]) -> None:
        """Raises InvalidValue unless these can be the layers of the model."""

    def build(self, width: int, heads: int, layers: Sequence[LayerDeclaration]) -> Carried:
        """What carries it, for a model of this width, heads a layer and layers, with fresh parameters."""
        raise NotImplementedError


class Stacked(Protocol):
    """What the hooks may use of a block: x + layer(norm(x)), then x + ffn(norm(x))."""

    norm: Any
    layer: Any

    def feed(self, x: Tensor) -> Tensor:
        """x + ffn(norm(x))."""
        ...


@dataclass
class Piece:
    """Tokens of one segment a row. place: of the first one in its segment, (B,). new: how many there are, (B,).
    opens, ends (B,) bool: whether the row's segment begins, ends with them. live (B, T) bool: which of the T positions
    that run through the blocks are tokens of its own. passing: what goes up the blocks beside them."""

    place: Tensor
    new: Tensor
    opens: Tensor
    ends: Tensor
    live: Tensor
    passing: Tensor | None = None

    def aligned(self, size: int) -> Tensor:
        """Which places of the segment these tokens take, (B, size) bool."""
        place = torch.arange(size, device=self.place.device)
        return (place >= self.place[:, None]) & (place < (self.place + self.new)[:, None])


class Carried(nn.Module):
    """What is handed from segment to segment, and its learned parts. Adding one: see `Segments`.

    Its state, made by `fresh_state`, is the part "segments" of the model's; all hooks return its next one. They see
    all rows, and may change the state of those only that `piece` names.
    """

    spec: Any
    """Its declaration."""
    width: int
    size: int
    """Tokens of a segment."""
    restarts = True
    """Whether layers start each segment afresh."""
    before = 0
    """Memory tokens in front of a segment."""
    behind = 0
    """Memory tokens behind a segment."""

    def __init__(self, spec: Segments, width: int):
        super().__init__()
        self.spec, self.width = spec, width
        spec.to_json()  # compiled code can only read it

    @property
    def owner(self) -> Owner:
        """Whose states these are."""
        return (("segments", self.spec.to_json()), ("width", self.width))

    def fresh_entries(self, like: Tensor) -> dict[str, Tensor | State]:
        """What a one-row state holds that has seen nothing, in the dtype and on the device of `like`."""
        return {}

    def fresh_state(self, like: Tensor) -> State:
        """A one-row state that has seen nothing: its entries, and `phase`, the place in the segment."""
        entries = self.fresh_entries(like) | {"phase": torch.zeros(1, dtype=torch.int64, device=like.device)}
        return State(self.owner, entries, {n: x for n, x in entries.items() if isinstance(x, Tensor)})

    def begin(self, state: State, opens: Tensor) -> State:
        """The rows of `opens` (B,) begin a segment."""
        return state

    def first(self, state: State) -> Tensor:
        """Memory tokens in front of the segment, (B, before, width)."""
        raise NotImplementedError

    def last(self, state: State) -> Tensor:
        """Memory tokens behind the segment, (B, behind, width)."""
        raise NotImplementedError

    def enter(
        self, i: int, block: Stacked, x: Tensor, layer: State, state: State, piece: Piece
    ) -> tuple[Tensor, State, State]:
        """What block i is given in the place of x (B, T, width); the state of its layer."""
        return x, layer, state

    def between(self, i: int, x: Tensor, state: State, piece: Piece) -> tuple[Tensor, State]:
        """What goes on from the layer of block i to its feed-forward network."""
        return x, state

    def leave(self, i: int, last: Tensor, state: State, ends: Tensor) -> State:
        """last (B, behind, width): what block i made of the memory tokens behind the segment, where it `ends`."""
        return state

    def end(self, given: Tensor, hidden: Tensor, last: Tensor, state: State, piece: Piece) -> State:
        """The piece has gone through: what was given (B, size, width) and what came out behind the model's last norm,
        each token at its place of the segment; `last` (B, behind, width) as well, where it ends."""
        return state

    def span(self, length: int) -> int:
        """How many tokens a layer sees at once, of a row of `length`."""
        return min(length, self.before + self.size + self.behind) if self.restarts else length

    def layer_flops(self, flops: Callable[[int], float], length: int) -> float:
        """What a layer costs on `length` tokens, when it costs flops(n) on n."""
        if not self.restarts:
            return flops(length)
        whole, rest = divmod(length, self.size)
        return whole * flops(self.before + self.size + self.behind) + (flops(self.before + rest) if rest else 0.0)

    def further_tokens(self, length: int) -> float:
        """How many more than its own tokens go through the feed-forward networks on a row of `length`."""
        return length / self.size * (self.before + self.behind)

    def flops(self, length: int) -> float:
        """Floating point operations of its own on one row of `length` tokens, to leading order."""
        return 0.0

    def explain(self) -> str:
        """How it runs, in a line."""
        return f"segments of {self.size} tokens, one after another, with {self.spec.kept} handed on"


def changed(state: State, **entries: Tensor | State) -> State:
    """The state with some entries in the place of others."""
    return state.successor(**(state.entries | entries))


def with_rows(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` where `rows` (B,) says so, `old` elsewhere, in the dtype of `old`."""
    return torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new.to(old.dtype), old)
