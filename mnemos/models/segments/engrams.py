"""Engrams: vectors of past segments that fire together, are reminded by one another, live by use and die without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration
from mnemos.layers.norm import RMSNorm
from mnemos.models.segments.base import Carried, Piece, Segments, changed, with_rows
from mnemos.state import State

NONE, WORKING, SHORT, LONG = range(4)
"""What an engram's place holds."""


@dataclass(frozen=True)
class Engrams(Segments):
    """Memoria (arXiv 2310.03052). When a segment begins, the last one's outputs X become `working` new engrams,

        E = W_2 W_1 softmax(Q (X W_k)^T) X W_v                    Q learned; X and kept engrams pass no gradient on

    They remind, by s(e) = mean_w -|e - w|^2, the `reminded` best engrams of the short-term memory; each of these the
    one of the long-term memory it fired with most often; this one, `depth` times, the one it fired with most often
    that is not found yet; and of all found, the `reminded_long` best by s stay. Working and reminded engrams fire: the
    count c_ij of how often i and j fired together grows by one for all pairs of them. Each block attends to E, then
    to the reminded engrams, between its layer and its feed-forward network.

    When the segment ends, each of the n reminded engrams lives `extend` * n * a longer, a its share of attention,
    averaged over tokens, heads and blocks. All grow older by 1; working engrams, born with a `lifespan`, join the
    short-term memory, whose oldest beyond `short` join the long-term memory; those with no life left are deleted.
    Ties go to the older engram.

    size: tokens of a segment. long: engrams of the long-term memory; beyond it those with the shortest life go, the
    oldest first. No count of a deleted engram stays.
    """

    size: int = 64
    working: int = 8
    short: int = 64
    long: int = 128
    reminded: int = 8
    reminded_long: int = 8
    depth: int = 10
    lifespan: float = 9.0
    extend: float = 8.0

    def __post_init__(self) -> None:
        for name in ("size", "working", "short", "long", "reminded", "reminded_long"):
            value = getattr(self, name)
            expect(value >= 1, f"Engrams({name}=) is a whole number of at least 1; got {value}.")
        expect(self.depth >= 0, f"Engrams(depth=) is a number of steps of at least 0; got {self.depth}.")
        expect(self.lifespan > 0, f"Engrams(lifespan=) is a number of segments above 0; got {self.lifespan}.")
        expect(self.extend >= 0, f"Engrams(extend=) is a factor of at least 0; got {self.extend}.")

    @property
    def places(self) -> int:
        """Engrams that there can be at a time."""
        return self.working + self.short + self.long

    @property
    def kept(self) -> str:
        return f"{self.places} engrams and how often they fired together"

    def build(self, width: int, heads: int, layers: Sequence[LayerDeclaration]) -> CarriedEngrams:
        return CarriedEngrams(self, width, heads, len(layers))


class CarriedEngrams(Carried):
    """What `Engrams` describes.

    Its state: outputs `past` and `open` (B, size, width) of the last segment and of this one, `begun` (B,) whether
    there was a last one, `working` (B, W, width) and `recalled` (B, R, width), what the blocks attend to; and `memory`,
    with N places, oldest engram first and free places last: `vectors` (B, N, width), `kind` (B, N), `life` (B, N),
    `counts` (B, N, N), the places of the `recalled` (B, R), -1 for none, and the attention `used` (B, R) they got.
    """

    def __init__(self, spec: Engrams, width: int, heads: int, depth: int):
        super().__init__(spec, width)
        self.size, self.heads, self.depth = spec.size, heads, depth
        self.abstract = Abstract(spec.working, width)
        self.attention = nn.ModuleList(EngramAttention(width, heads) for _ in range(depth))

    def fresh_entries(self, like: Tensor) -> dict[str, Tensor | State]:
        spec, kind = self.spec, {"dtype": like.dtype, "device": like.device}
        wide = {"dtype": torch.float64 if like.dtype == torch.float64 else torch.float32, "device": like.device}
        whole = {"dtype": torch.int64, "device": like.device}
        n, r = spec.places, spec.reminded + spec.reminded_long
        memory = {
            "vectors": torch.zeros(1, n, self.width, **wide),
            "kind": torch.zeros(1, n, **whole),
            "life": torch.zeros(1, n, **wide),
            "counts": torch.zeros(1, n, n, dtype=torch.int32, device=like.device),
            "recalled": torch.full((1, r), -1, **whole),
            "used": torch.zeros(1, r, **wide),
        }
        return {
            "past": torch.zeros(1, self.size, self.width, **kind),
            "open": torch.zeros(1, self.size, self.width, **kind),
            "begun": torch.zeros(1, dtype=torch.bool, device=like.device),
            "working": torch.zeros(1, spec.working, self.width, **kind),
            "recalled": torch.zeros(1, r, self.width, **kind),
            "memory": State(self.owner, memory, memory),
        }

    def begin(self, state: State, opens: Tensor) -> State:
        rows, memory = opens & state["begun"], state.child("memory")
        working = self.abstract(state["past"].to(self.abstract.questions.dtype))
        with torch.no_grad():
            store = remind(self.spec, born(self.spec, _store(memory), working))
            place = store["recalled"]
            vectors = _take(store["vectors"], place.clamp(min=0)) * (place >= 0)[..., None]
        new = {n: with_rows(rows, x, memory[n]) for n, x in store.items()}
        return changed(
            state,
            working=with_rows(rows, working, state["working"]),
            recalled=with_rows(rows, vectors, state["recalled"]),
            memory=memory.successor(**new),
        )

    def between(self, i: int, x: Tensor, state: State, piece: Piece) -> tuple[Tensor, State]:
        begun, memory = state["begun"], state.child("memory")
        attention: EngramAttention = self.attention[i]  # pyright: ignore[reportAssignmentType]
        there = begun[:, None].expand(-1, self.spec.working)
        y, _ = attention(attention.working_norm(x), state["working"], there)
        x = x + y
        y, weights = attention(attention.recalled_norm(x), state["recalled"], memory["recalled"] >= 0)
        used = memory["used"] + (weights.detach().sum(1) * piece.live[..., None]).sum(1)
        return x + y, changed(state, memory=changed(memory, used=used))

    def end(self, given: Tensor, hidden: Tensor, last: Tensor, state: State, piece: Piece) -> State:
        tokens = torch.where(
            piece.aligned(self.size)[..., None], hidden.detach().to(state["open"].dtype), state["open"]
        )
        ends, memory = piece.ends, state.child("memory")
        entries: dict[str, Tensor | State] = {
            "past": with_rows(ends, tokens, state["past"]),
            "open": with_rows(ends, torch.zeros_like(tokens), tokens),
            "begun": state["begun"] | ends,
        }
        if torch.compiler.is_compiling() or bool(ends.any()):
            share = memory["used"] / (self.size * self.heads * self.depth)
            older = aged(self.spec, _store(memory), share)
            entries["memory"] = memory.successor(**{n: with_rows(ends, x, memory[n]) for n, x in older.items()})
            for name in ("working", "recalled"):
                entries[name] = with_rows(ends, torch.zeros_like(state[name]), state[name])
        return changed(state, **entries)

    def flops(self, length: int) -> float:
        spec, segments = self.spec, length / self.size
        seen = spec.working + spec.reminded + spec.reminded_long
        per_token = self.depth * (8.0 * self.width**2 + 4.0 * seen * self.width)
        entries = self.depth * 4.0 * seen * self.width**2
        abstract = 4.0 * self.size * self.width * (self.width + spec.working) + 16.0 * spec.working * self.width**2
        return length * per_token + segments * (abstract + entries + 2.0 * spec.places * self.width)


class Abstract(nn.Module):
    """W_2 W_1 softmax(Q (X W_k)^T) X W_v: X (B, T, width) in as many vectors as Q has."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.questions = nn.Parameter(0.02 * torch.randn(count, width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.questions.to(x.dtype) @ self.key(x).mT, -1)
        return self.down(self.up(weights @ self.value(x)))


class EngramAttention(nn.Module):
    """One block's attention to engrams, the same for both kinds, and a norm for each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.working_norm, self.recalled_norm = RMSNorm(width), RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, engrams: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, width), engrams (B, N, width), of which some are `there` (B, N) -> answers (B, T, width) and weights
        (B, H, T, N); zero where there are none."""
        q = self.query(x).unflatten(-1, (self.heads, -1))
        k, v = self.key_value(engrams.to(x.dtype)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        scores = torch.einsum("bthk,bnhk->bhtn", q, k).to(wide) / q.shape[-1] ** 0.5
        seen = there[:, None, None]
        scores = scores.masked_fill(~seen, torch.finfo(wide).min)
        weights = torch.where(seen, torch.softmax(scores, -1), 0.0)
        o = torch.einsum("bhtn,bnhk->bthk", weights.to(v.dtype), v)
        return self.out(o.flatten(-2)), weights


Store = dict[str, Tensor]
"""The entries of the state `memory`."""


def born(spec: Engrams, store: Store, working: Tensor) -> Store:
    """The store with `working` (B, W, width) as new engrams behind all others."""
    count = (store["kind"] != NONE).sum(1)
    place = count[:, None] + torch.arange(spec.working, device=count.device)
    # A row in the middle of a segment is not about to change: its store may be full, and is thrown away.
    place = place.clamp(max=spec.places - 1)
    vectors = working.detach().to(store["vectors"].dtype)
    return store | {
        "vectors": store["vectors"].scatter(1, place[..., None].expand_as(vectors), vectors),
        "kind": store["kind"].scatter(1, place, WORKING),
        "life": store["life"].scatter(1, place, spec.lifespan),
    }


def remind(spec: Engrams, store: Store) -> Store:
    """The store after the working engrams have reminded others, and all of them have fired."""
    kind, vectors, counts = store["kind"], store["vectors"], store["counts"]
    score = nearness(vectors, kind == WORKING)
    short = best(score, kind == SHORT, spec.reminded)
    found = search(counts, short, kind == LONG, spec.depth)
    recalled = torch.cat([short, best(score, found, spec.reminded_long)], 1)
    fired = mark(kind == WORKING, recalled).to(counts.dtype)
    return store | {
        "counts": counts + fired[:, :, None] * fired[:, None],
        "recalled": recalled,
        "used": torch.zeros_like(store["used"]),
    }


def nearness(vectors: Tensor, working: Tensor) -> Tensor:
    """-|e - w|^2 for all vectors e (B, N, width), (B, N): its mean over those w that are `working` (B, N)."""
    share = working.to(vectors.dtype) / working.sum(1, keepdim=True).clamp(min=1)
    centre = torch.einsum("bn,bnd->bd", share, vectors)
    spread = torch.einsum("bn,bnd->b", share, (vectors - centre[:, None]).square())
    return -(vectors - centre[:, None]).square().sum(-1) - spread[:, None]


def best(score: Tensor, among: Tensor, count: int) -> Tensor:
    """Places (B, count) of the highest scores `among` these (B, N), the older first in a tie; -1 if there are fewer."""
    order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)[:, :count]
    order = torch.nn.functional.pad(order, (0, count - order.shape[1]), value=0)
    rank = torch.arange(count, device=score.device)
    return torch.where(rank < among.sum(1, keepdim=True), order, -1)


def search(counts: Tensor, start: Tensor, among: Tensor, depth: int) -> Tensor:
    """Which engrams `among` these (B, N) are found from those at `start` (B, R): from each the one that it fired with
    most often, and from there `depth` times the one that fired most often with it and is not found yet."""
    found, here = torch.zeros_like(among), start
    for _ in range(depth + 1):
        rows = counts.gather(1, here.clamp(min=0)[..., None].expand(-1, -1, counts.shape[-1]))
        rows = rows.masked_fill(~(among & ~found)[:, None] | (here < 0)[..., None], 0)
        most, place = rows.max(-1).values, rows.argmax(-1)  # the first of several
        here = torch.where(most > 0, place, -1)
        found = mark(found, here)
    return found


def mark(flags: Tensor, places: Tensor) -> Tensor:
    """flags (B, N) with those at `places` (B, R) set; -1 sets none."""
    counted = torch.zeros_like(flags, dtype=torch.int64)
    counted = counted.scatter_add(1, places.clamp(min=0), (places >= 0).long())
    return flags | (counted > 0)


def aged(spec: Engrams, store: Store, share: Tensor) -> Store:
    """The store at a segment's end. share (B, R): of attention, by reminded engram."""
    recalled, kind = store["recalled"], store["kind"]
    there = recalled >= 0
    gain = spec.extend * there.sum(1, keepdim=True) * share * there
    life = store["life"].scatter_add(1, recalled.clamp(min=0), gain.to(store["life"].dtype))
    life = torch.where(kind != NONE, life - 1, life)
    kind = torch.where(kind == WORKING, SHORT, kind)
    newer = (kind == SHORT).flip(1).cumsum(1).flip(1)  # itself included
    kind = torch.where((kind == SHORT) & (newer > spec.short), LONG, kind)
    kind = torch.where(life > 0, kind, NONE)
    # Of too many, those with the shortest life go; of equals the oldest.
    order = torch.where(kind == LONG, life, torch.inf).argsort(dim=1, stable=True)
    surplus = (kind == LONG).sum(1, keepdim=True) - spec.long
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    kind = torch.where((kind == LONG) & (rank < surplus), NONE, kind)

    stay = (kind == NONE).long().argsort(dim=1, stable=True)  # the living first, the oldest first of all
    alive = kind.gather(1, stay) != NONE
    counts = store["counts"].gather(1, stay[..., None].expand_as(store["counts"]))
    counts = counts.gather(2, stay[:, None].expand_as(counts)) * (alive[:, :, None] & alive[:, None])
    return {
        "vectors": _take(store["vectors"], stay) * alive[..., None],
        "kind": kind.gather(1, stay),
        "life": life.gather(1, stay) * alive,
        "counts": counts,
        "recalled": torch.full_like(recalled, -1),
        "used": torch.zeros_like(store["used"]),
    }


def _store(memory: State) -> Store:
    return {name: memory[name] for name in memory.fresh}


def _take(vectors: Tensor, places: Tensor) -> Tensor:
    """vectors (B, N, width) at places (B, R)."""
    return vectors.gather(1, places[..., None].expand(-1, -1, vectors.shape[-1]))
