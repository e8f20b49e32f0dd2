"""Explicit memories: what a model made of a short text, cut down to a few keys and values, to be read again later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.lowering.watch import watched_by
from mnemos.memory import AnyMemory, Controls, Everything, KVMemory
from mnemos.memory.rotary import rotate
from mnemos.models.language_model import LanguageModel
from mnemos.state import State


@dataclass(frozen=True)
class ExplicitMemory:
    """A text as Memory^3 keeps it (arXiv 2407.01178): n keys, turned to their positions in the text, and values of
    every head of each of the first layers: keys (layers, H, n, K), values (layers, H, n, V). Heads choose tokens of
    their own."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        """2 * layers * heads * n * width numbers (where keys and values are equally wide) in their precision."""
        return self.keys.nbytes + self.values.nbytes

    def to(self, device: torch.device | str) -> ExplicitMemory:
        """The same on another device."""
        return ExplicitMemory(self.keys.to(device), self.values.to(device))


def received_attention(q: Tensor, k: Tensor) -> Tensor:
    """How much attention tokens receive from all others, before and after them, without positions:

        w_j = sum over queries i, and query heads of the group, of softmax_j(q_i . k_j / sqrt(K))

    q (T, H * group, K), k (T, H, K). Returns (H, T); each row adds up to T * group.
    """
    heads, width = k.shape[1], k.shape[2]
    grouped = q.unflatten(1, (heads, -1)).permute(1, 2, 0, 3)  # (H, group, T, K)
    scores = grouped @ k.permute(1, 2, 0)[:, None] / math.sqrt(width)
    return scores.softmax(-1).sum((1, 2))


def write_explicit(
    model: LanguageModel, text: Tensor, prefix: Tensor | None = None, *, kept: int = 8, layers: int | None = None
) -> ExplicitMemory:
    """What `model` makes of `text` (T,) after `prefix` (P,), in its first `layers` layers: of every head, the `kept`
    tokens of the text that receive most attention from the text, in their order; of equals, the earlier.

    prefix: tokens that stand before every text (a beginning-of-text mark, "Reference:"), which are not chosen.
    kept: as many as the text has, where it is shorter. layers: None for the first half of them.

    Raises InvalidValue or InvalidType for a model whose layers are not full softmax attention, and for tokens that
    cannot be.
    """
    number = _layers(model, layers)
    text, prefix = _tokens(model, text, "text"), _tokens(model, prefix, "prefix")
    expect(len(text) >= 1, "write_explicit(text=) holds no tokens.")
    expect(
        isinstance(kept, int) and kept >= 1, f"write_explicit(kept=) is a number of tokens, at least 1; got {kept!r}."
    )
    begin, keys, values = len(prefix), [], []

    def look(
        memory: AnyMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, lengths: object, out: Tensor, s: State
    ) -> None:
        if len(keys) == number:
            return
        assert isinstance(memory, KVMemory)
        weights = received_attention(q[0, begin:], k[0, begin:])
        ranked = weights.round(decimals=6).argsort(dim=1, descending=True, stable=True)  # equal tokens receive as much
        best = ranked[:, :kept].sort(1).values  # (H, n)
        turned = k
        if memory.read_rule.rotary is not None:
            turned = rotate(k, torch.arange(k.shape[1], device=k.device)[None], memory.read_rule.rotary)
        keys.append(_of_heads(turned[0, begin:], best))
        values.append(_of_heads(v[0, begin:], best))

    with torch.no_grad(), watched_by(look):
        model(torch.cat([prefix, text])[None])
    return ExplicitMemory(torch.stack(keys), torch.stack(values))


def with_memories(
    model: LanguageModel,
    state: State,
    memories: Sequence[ExplicitMemory],
    *,
    prefix: int = 0,
    length: int = 128,
) -> State:
    """`state` with these memories in the place of those that it had, between the first `prefix` tokens and the context:
    what comes next reads prefix, memories and context by one softmax in the layers that have memories, and prefix and
    context in the others.

    All texts share the positions [prefix, length), whatever their number, and the context begins at `length`, so that
    the order of the memories does not matter. A state that has read the prefix and nothing else is moved on to there.

    Raises InvalidValue where the memories are not this model's, or hold more tokens than there are positions; and for a
    state that has read more than the prefix and less than `length`.
    """
    model.check_state(state)
    _layers(model, None)
    shapes = [layer.init_state(1).child("memory")["keys"].shape[2:] for layer in model.layers()]
    for memory in memories:
        if not isinstance(memory, ExplicitMemory):
            raise InvalidType(f"with_memories takes what write_explicit returns; got {type(memory).__name__}.")
        own = (memory.keys.shape[1], memory.keys.shape[3])
        fits = len(memory.keys) <= len(shapes) and all(shape == own for shape in shapes[: len(memory.keys)])
        expect(
            fits and len(memory.keys) == len(memories[0].keys),
            f"these memories are not of this model: keys of shape {tuple(memory.keys.shape)}.",
        )
    count = state.child("0").child("memory")["count"]
    expect(
        bool(((count == prefix) | (count >= length)).all()) and 0 <= prefix <= length,
        f"a context begins after a prefix of {prefix} tokens, at position {length}; this state has read "
        f"{count.tolist()} tokens.",
    )
    number = sum(memory.keys.shape[2] for memory in memories)
    expect(
        number <= length - prefix,
        f"{number} tokens of memories do not fit between position {prefix} and {length}: write fewer of each text "
        "(write_explicit(kept=)), read fewer, or let the context begin later (length=).",
    )
    children: dict[str, Tensor | State] = {}
    for i, name in enumerate(state.entries):
        layer = state.child(name)
        inner, device = layer.child("memory"), layer.child("memory")["keys"].device
        slot = inner["slot"]
        shown = (slot[0] > 0) & ((slot[0] <= prefix) | (slot[0] > length))
        kept = {n: inner[n][:, shown] for n in ("keys", "values", "slot")}
        if memories and i < len(memories[0].keys):
            of_layer = {
                "keys": torch.cat([m.keys[i].to(device) for m in memories], 1),
                "values": torch.cat([m.values[i].to(device) for m in memories], 1),
            }
            for n, x in of_layer.items():
                x = x.transpose(0, 1).to(inner[n].dtype).expand(len(slot), -1, -1, -1)
                kept[n] = torch.cat([kept[n][:, :prefix], x, kept[n][:, prefix:]], 1)
            places = (prefix + 1 + torch.arange(number, device=device)).expand(len(slot), -1)
            kept["slot"] = torch.cat([kept["slot"][:, :prefix], places, kept["slot"][:, prefix:]], 1)
        memory = inner.successor(**kept, count=inner["count"].clamp(min=length))
        children[name] = layer.successor(**layer.entries | {"memory": memory})
    return state.successor(**children)


def read_with_memories(
    model: LanguageModel,
    tokens: Tensor,
    recall: Callable[[Tensor], Sequence[ExplicitMemory]],
    *,
    query: Tensor | None = None,
    prefix: Tensor | None = None,
    block: int = 64,
    length: int = 128,
) -> tuple[Tensor, State]:
    """Logits (T, vocabulary) of tokens (T,) that are read block by block, each with the memories of what it followed:
    before every block those of the block before it are put away, and `recall`, given the tokens of that block, says
    which ones are read instead. `query`: tokens that stand for the block before the first; None for no memories there.

    prefix, length: as in `write_explicit` and `with_memories`. Also returns the state after the last token, with the
    last block's memories. Raises what those raise.
    """
    tokens, prefix = _tokens(model, tokens, "tokens"), _tokens(model, prefix, "prefix")
    expect(isinstance(block, int) and block >= 1, f"read_with_memories(block=) is at least 1; got {block!r}.")
    expect(len(tokens) >= 1, "read_with_memories(tokens=) holds no tokens.")
    state = model.init_state(1)
    if len(prefix):
        _, state = model(prefix[None], state)
    before, logits = query, []
    for piece in tokens.split(block):
        memories = [] if before is None else recall(before)
        state = with_memories(model, state, memories, prefix=len(prefix), length=length)
        out, state = model(piece[None], state)
        logits.append(out[0])
        before = piece
    return torch.cat(logits), state


def _of_heads(x: Tensor, chosen: Tensor) -> Tensor:
    """x (T, H, K) at tokens (H, n) of each head: (H, n, K), in the host's memory."""
    index = chosen[..., None].expand(-1, -1, x.shape[-1])
    return x.transpose(0, 1).gather(1, index).detach().cpu()


def _layers(model: LanguageModel, layers: int | None) -> int:
    """How many layers have memories; raises for a model that cannot."""
    if not isinstance(model, LanguageModel):
        raise InvalidType(f"explicit memories are of a LanguageModel; got {type(model).__name__}.")
    for i, layer in enumerate(model.layers()):
        memory = getattr(layer, "memory", None)
        plain = isinstance(memory, KVMemory) and memory.read_rule.plain and memory.read_rule.mask is None
        expect(
            plain and isinstance(memory.retain, Everything) and set(layer.init_state(1).entries) == {"memory"},  # pyright: ignore
            "explicit memories are read by full softmax attention, such as zoo.transformer()'s; "
            f"layer {i} is {layer.spec}.",
        )
    depth = len(model.layers())
    expect(
        layers is None or (isinstance(layers, int) and 1 <= layers <= depth),
        f"layers= lies between 1 and the model's {depth}; got {layers!r}.",
    )
    return max(1, depth // 2) if layers is None else layers


def _tokens(model: LanguageModel, tokens: Tensor | None, name: str) -> Tensor:
    device = model.embedding.weight.device
    if tokens is None:
        return torch.zeros(0, dtype=torch.int64, device=device)
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        raise InvalidType(f"{name} takes int64 token ids; got {getattr(tokens, 'dtype', type(tokens).__name__)}.")
    if tokens.ndim != 1:
        raise InvalidValue(f"{name} is one text, (time,); got shape {tuple(tokens.shape)}.")
    return tokens.to(device)
