"""An associative memory at every block, written at the end of each segment (associative recurrent memory)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers import DPFP, LayerDeclaration
from mnemos.lowering import run_rows
from mnemos.memory import GD, L2, Chunk, Keep, Matrix, Memory
from mnemos.models.segments.base import Carried, Piece, Segments, Stacked, changed, with_rows
from mnemos.state import State

EPSILON = 1e-5


@dataclass(frozen=True)
class Associative(Segments):
    """Associative recurrent memory (ARMT, arXiv 2407.04841). Each block has a memory A, z that starts at zero. `count`
    learned memory tokens stand behind each segment. With f = DPFP(order) of length 1, at the block's input

        h <- h + f(W_q h)^T A / (f(W_q h) . z + e)                                           all tokens
        A <- A + sum_i b_i k_i (v_i - k_i^T A / (k_i . z + e))^T,   z <- z + sum_i g_i k_i    after the segment

    with k_i = f(W_k o_i), v_i = W_v o_i and b_i = sigmoid(W_b o_i) of what the block made of memory token i, all i at
    once, g_i = clip(1 - (k_i . z + e) / (|k_i|^2 + e), 0, 1), through which no gradient flows (1 at the first write),
    and e = 1e-5. W_v starts at zero. A batch of keys that overlap is written as if each were alone.

    normalise: False leaves z out, and reads and errors are f(W_q h)^T A and v_i - k_i^T A: then it is the delta rule
    Memory(Matrix(), L2(), Keep(), GD(anchor=Chunk(count))), and run as that.

    size: tokens of a segment. key_dim: channels before f, which makes 2 order times as many of them.
    """

    size: int = 64
    count: int = 8
    key_dim: int = 64
    order: int = 3
    normalise: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "count", "key_dim", "order"):
            value = getattr(self, name)
            expect(value >= 1, f"Associative({name}=) is a whole number of at least 1; got {value}.")

    @property
    def kept(self) -> str:
        return f"{2 * self.order * self.key_dim} associations a block"

    def build(self, width: int, heads: int, layers: Sequence[LayerDeclaration]) -> CarriedAssociations:
        return CarriedAssociations(self, width, len(layers))


class CarriedAssociations(Carried):
    """What `Associative` describes. Its state: `memory`, with one of every block. A block's holds `matrix` (B, D,
    width) and `normaliser` (B, D), or is the state of the delta rule."""

    def __init__(self, spec: Associative, width: int, depth: int):
        super().__init__(spec, width)
        self.size, self.behind, self.depth = spec.size, spec.count, depth
        self.tokens = nn.Parameter(0.02 * torch.randn(spec.count, width))
        kind = _Normalised if spec.normalise else _DeltaRule
        self.memories = nn.ModuleList(kind(spec, width) for _ in range(depth))

    def fresh_entries(self, like: Tensor) -> dict[str, Tensor | State]:
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        like = like.new_empty(0, dtype=wide)
        return {"memory": State(self.owner, {str(i): m.fresh_state(like) for i, m in enumerate(self._memories())})}

    def last(self, state: State) -> Tensor:
        return self.tokens.expand(state.batch, -1, -1)

    def enter(
        self, i: int, block: Stacked, x: Tensor, layer: State, state: State, piece: Piece
    ) -> tuple[Tensor, State, State]:
        return x + self._memories()[i].read(x, state.child("memory").child(str(i))).to(x.dtype), layer, state

    def leave(self, i: int, last: Tensor, state: State, ends: Tensor) -> State:
        memory = state.child("memory")
        written = self._memories()[i].write(last, memory.child(str(i)), ends)
        return changed(state, memory=changed(memory, **{str(i): written}))

    def _memories(self) -> list[_Associations]:
        return list(self.memories)  # pyright: ignore[reportReturnType]

    def flops(self, length: int) -> float:
        features = 2 * self.spec.order * self.spec.key_dim
        tokens, writes = length + self.further_tokens(length), length / self.size * self.spec.count
        reading = 2.0 * self.width * (self.spec.key_dim + features)
        writing = 2.0 * self.width * (self.spec.key_dim + self.width + 2 * features)
        return self.depth * (tokens * reading + writes * writing)


class _Associations(nn.Module):
    """The learned parts of one block's memory."""

    def __init__(self, spec: Associative, width: int):
        super().__init__()
        self.spec, self.width = spec, width
        self.features = DPFP(spec.order, unit=True)
        self.query = nn.Linear(width, spec.key_dim, bias=False)
        self.key = nn.Linear(width, spec.key_dim, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.value.weight)
        self.rate = nn.Linear(width, 1)

    @property
    def key_dim(self) -> int:
        """Channels of the features."""
        return self.features.width(self.spec.key_dim)

    def pairs(self, o: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (B, n, D), values (B, n, width) and rates (B, n) of memory tokens o, at least in float32."""
        k, v, b = self.key(o), self.value(o), self.rate(o)[..., 0]
        return self.features(_wide(k)), _wide(v), torch.sigmoid(_wide(b))

    def fresh_state(self, like: Tensor) -> State:
        """A one-row memory of nothing."""
        raise NotImplementedError

    def read(self, x: Tensor, state: State) -> Tensor:
        """What it answers x, (B, T, width)."""
        raise NotImplementedError

    def write(self, o: Tensor, state: State, ends: Tensor) -> State:
        """The state after memory tokens o (B, n, width), in the rows of `ends` (B,)."""
        raise NotImplementedError


class _Normalised(_Associations):
    """A and z."""

    def fresh_state(self, like: Tensor) -> State:
        fresh = {"matrix": like.new_zeros(1, self.key_dim, self.width), "normaliser": like.new_zeros(1, self.key_dim)}
        return State((("associations", self.spec.to_json()), ("width", self.width)), fresh, fresh)

    def read(self, x: Tensor, state: State) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return answer(self.features(_wide(_project(self.query, x))), state["matrix"], state["normaliser"])

    def write(self, o: Tensor, state: State, ends: Tensor) -> State:
        with torch.autocast(o.device.type, enabled=False):
            pairs = self.pairs(o.to(self.key.weight.dtype))
            matrix, normaliser = associate(*pairs, state["matrix"], state["normaliser"])
        return state.successor(
            matrix=with_rows(ends, matrix, state["matrix"]), normaliser=with_rows(ends, normaliser, state["normaliser"])
        )


class _DeltaRule(_Associations):
    """The library's own memory: one head of keys f(W_k o)."""

    def __init__(self, spec: Associative, width: int):
        super().__init__(spec, width)
        self.memory = Memory(Matrix(), L2(), Keep(), GD(anchor=Chunk(spec.count)))
        self.memory.to_json()  # compiled code can only read it

    def fresh_state(self, like: Tensor) -> State:
        weights = self.memory.initial_weights(1, self.key_dim, self.width)
        return self.memory.init(1, 1, self.key_dim, self.width, weights, like.dtype, like.device)

    def read(self, x: Tensor, state: State) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.memory.read(state, self.features(_wide(_project(self.query, x)))[:, :, None])[:, :, 0]

    def write(self, o: Tensor, state: State, ends: Tensor) -> State:
        with torch.autocast(o.device.type, enabled=False):
            k, v, b = (y[:, :, None] for y in self.pairs(o.to(self.key.weight.dtype)))
            return run_rows(self.memory, k, k, v, {"rate": b}, state, self.spec.count * ends.long())[1]


def answer(q: Tensor, matrix: Tensor, normaliser: Tensor, epsilon: float = EPSILON) -> Tensor:
    """q^T A / (q . z + epsilon), (B, n, V), for q (B, n, D), A (B, D, V) and z (B, D)."""
    return (q @ matrix) / (q @ normaliser[..., None] + epsilon)


def associate(
    k: Tensor, v: Tensor, b: Tensor, matrix: Tensor, normaliser: Tensor, epsilon: float = EPSILON
) -> tuple[Tensor, Tensor]:
    """A and z after pairs k (B, n, D), v (B, n, V) were written at rates b (B, n), all at once (see `Associative`)."""
    known = (k @ normaliser[..., None])[..., 0] + epsilon
    news = (1 - known / (k.square().sum(-1) + epsilon)).clamp(0, 1).detach()
    first = (normaliser == 0).all(-1, keepdim=True)
    news = torch.where(first, 1.0, news)
    change = torch.einsum("bn,bnk,bnv->bkv", b, k, v - answer(k, matrix, normaliser, epsilon))
    return matrix + change, normaliser + (news[..., None] * k).sum(1)


def _project(linear: nn.Linear, x: Tensor) -> Tensor:
    return linear(x.to(linear.weight.dtype))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
