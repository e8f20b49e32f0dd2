"""What neighbourhoods on both sides must satisfy: who sees whom, at the ends too, although all are answered late."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import WaitToAttend, WaitToAttendLayer
from mnemos.memory import (
    Delayed,
    GridNeighborhood,
    GridNeighborhoodAround,
    KVMemory,
    NeighborhoodAround,
    Retain,
    TwoSided,
)
from mnemos.models import flush

B, H, K = 2, 2, 4
WIDTH = H * K


def inputs(time: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def memory_of(
    around: TwoSided,
    further: int = 0,
    retain: Retain | None = None,
    top: int | None = None,
    rotary: float | None = None,
) -> KVMemory:
    """Read as soon as `around` allows, or `further` tokens later, and with no more kept than it takes."""
    delay = around.delay + further
    return KVMemory(retain=retain or mn.Window(2 * delay + 1), read=Delayed(delay, top, rotary=rotary, around=around))


def run(memory: KVMemory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The answers in the order of the queries' tokens: those that come in time, and those of the end."""
    assert isinstance(memory.read_rule, Delayed)
    delay, time = memory.read_rule.delay, q.shape[1]
    queue = torch.cat([q.new_zeros(B, delay, H, K), q], 1)
    waited = torch.tensor([delay if t >= delay else -1 for t in range(time)], dtype=torch.float64)
    out, state = mn.run(memory, queue[:, :time], k, v, {"waited": waited[:, None].expand(B, -1, H)})
    if not delay:
        return out
    age = torch.tensor([a if a < time else -1 for a in reversed(range(delay))], dtype=torch.float64)
    last = memory.read(state, queue[:, time:], {"waited": age[:, None].expand(B, -1, H)})
    return torch.cat([out, last], 1)[:, delay:]


def looked_at(around: TwoSided, time: int) -> list[set[int]]:
    """For each of `time` tokens those that it gives weight to."""
    q, k, _ = inputs(time)
    v = torch.eye(time, dtype=torch.float64)[:, None].expand(B, -1, H, -1)
    weights = run(memory_of(around), q, k, v)
    assert_same(weights.sum(-1), torch.ones(B, time, H, dtype=torch.float64))
    every = weights > 0
    assert bool((every == every[:1, :, :1]).all())
    return [set(row.nonzero().flatten().tolist()) for row in every[0, :, 0]]


def dense(q: Tensor, k: Tensor, v: Tensor, seen: list[set[int]] | None = None) -> Tensor:
    """Softmax attention from every token to those of a list, or to all."""
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])
    if seen is not None:
        mask = torch.tensor([[s in row for s in range(len(seen))] for row in seen])
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhts,bshv->bthv", scores.softmax(-1), v)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def axis(place: int, length: int, window: int, dilation: int = 1, stride: int = 1) -> set[int]:
    """The window of one axis, as the papers' code defines it."""
    line = [i for i in range(length) if i % dilation == place % dilation]
    left, right = window // 2, window // 2 + window % 2 - 1
    leader = min(line.index(place) // stride * stride + stride // 2, len(line) - 1)
    centre = min(max(leader, left), len(line) - 1 - right)
    return {line[i] for i in range(centre - left, centre + right + 1)}


def test_the_windows_of_the_published_examples() -> None:
    first, last = {0, 1, 2}, {4, 5, 6}
    assert looked_at(NeighborhoodAround(3), 7) == [first, first, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}, last, last]
    first, last = {0, 1, 2, 3}, {3, 4, 5, 6}
    assert looked_at(NeighborhoodAround(4), 7) == [first, first, first, {1, 2, 3, 4}, {2, 3, 4, 5}, last, last]
    even, odd = {0, 2, 4}, {1, 3, 5}
    assert looked_at(NeighborhoodAround(3, 2), 7) == [even, odd, even, odd, {2, 4, 6}, odd, {2, 4, 6}]


LINES = list(
    itertools.starmap(
        NeighborhoodAround,
        [(1, 1, 1), (5, 1, 1), (4, 1, 1), (3, 3, 1), (5, 1, 2), (5, 1, 5), (6, 1, 4), (3, 2, 2), (4, 2, 3)],
    )
)


@pytest.mark.parametrize("around", LINES, ids=str)
@pytest.mark.parametrize("time", [9, 12, 23])
def test_every_query_sees_exactly_its_window(around: NeighborhoodAround, time: int) -> None:
    seen = looked_at(around, time)
    assert all(len(row) == around.window for row in seen)
    assert seen == [axis(i, time, around.window, around.dilation, around.stride) for i in range(time)]


GRIDS = list(
    itertools.starmap(
        GridNeighborhoodAround,
        [(5, 3, 3, 1, 1), (4, 2, 3, 1, 1), (7, 2, 3, 1, 2), (6, 2, 2, 2, 3), (3, 4, 1, 1, 1), (1, 3, 1, 2, 1)],
    )
)


@pytest.mark.parametrize("around", GRIDS, ids=str)
def test_on_a_grid_it_is_the_product_of_two_axes(around: GridNeighborhoodAround) -> None:
    height, width = 7, around.width
    wanted = [
        {
            row * width + column
            for row in axis(t // width, height, around.rows, around.row_dilation)
            for column in axis(t % width, width, around.columns, around.column_dilation)
        }
        for t in range(height * width)
    ]
    assert all(len(row) == around.rows * around.columns for row in wanted)
    assert looked_at(around, height * width) == wanted


@pytest.mark.parametrize("around", [*LINES, *GRIDS], ids=str)
def test_the_delay_is_the_least_that_shows_all_of_it(around: TwoSided) -> None:
    """Nothing is further ahead or back; one token less is refused; to wait longer, or keep more, changes nothing."""
    time = 3 * around.delay + 5
    at = torch.arange(time)
    seen = around.sees(at[:, None], at, torch.tensor(time - 1))
    lead = (at - at[:, None])[seen]
    assert int(lead.max()) == around.delay
    assert -int(lead.min()) <= around.delay
    for t in range(time - around.delay):
        for newest in (t + around.delay, time - 1, 10 * time):
            assert torch.equal(around.sees(at[t], at, torch.tensor(newest)), seen[t])
    if around.delay:
        with pytest.raises(InvalidValue, match=f"at least {around.delay}; got {around.delay - 1}"):
            Delayed(around.delay - 1, around=around)
    q, k, v = inputs(time)
    expected = run(memory_of(around, rotary=100.0), q, k, v)
    assert_same(run(memory_of(around, 3, rotary=100.0), q, k, v), expected)
    assert_same(run(memory_of(around, retain=mn.Everything(), rotary=100.0), q, k, v), expected)


def test_the_largest_and_the_smallest_window() -> None:
    q, k, v = inputs(11)
    assert_same(run(memory_of(NeighborhoodAround(11)), q, k, v), dense(q, k, v))
    assert_same(run(memory_of(NeighborhoodAround(1, 3)), q, k, v), v)


@pytest.mark.parametrize("window", [3, 4])
def test_a_stride_of_the_window_is_attention_within_blocks(window: int) -> None:
    q, k, v = inputs(12)
    pieces = zip(*(x.split(window, 1) for x in (q, k, v)), strict=True)
    blocks = [dense(a, b, c) for a, b, c in pieces]
    assert_same(run(memory_of(NeighborhoodAround(window, stride=window)), q, k, v), torch.cat(blocks, 1))


def test_residue_classes_are_problems_of_their_own() -> None:
    q, k, v = inputs(17)
    out = run(memory_of(NeighborhoodAround(4, 3, 2)), q, k, v)
    for residue in range(3):
        parts = [x[:, residue::3] for x in (q, k, v)]
        assert_same(out[:, residue::3], run(memory_of(NeighborhoodAround(4, 1, 2)), *parts))


def test_limits_of_grids() -> None:
    q, k, v = inputs(20)
    assert_same(run(memory_of(GridNeighborhoodAround(5, 4, 5)), q, k, v), dense(q, k, v))
    rows = [run(memory_of(NeighborhoodAround(3)), *(x[:, s : s + 5] for x in (q, k, v))) for s in range(0, 20, 5)]
    assert_same(run(memory_of(GridNeighborhoodAround(5, 1, 3)), q, k, v), torch.cat(rows, 1))
    column = run(memory_of(NeighborhoodAround(4, 2)), q, k, v)
    assert_same(run(memory_of(GridNeighborhoodAround(1, 4, 1, 2)), q, k, v), column)


def test_the_columns_are_those_of_the_causal_grid() -> None:
    at = torch.arange(42)
    around = GridNeighborhoodAround(7, 3, 3, 1, 2).sees(at[:, None], at, torch.tensor(41))
    causal = GridNeighborhood(7, 3, 3, 1, 2).sees(at[:, None], at)
    same_row = at[:, None] // 7 == at // 7
    assert torch.equal(around & same_row, causal & same_row)
    assert int((around & same_row).sum()) == 42 * 3


def test_what_is_missing_from_the_last_row_is_not_seen() -> None:
    """18 of 20 pixels: the fourth row counts as one, and nothing is seen in the place of its last two."""
    around = GridNeighborhoodAround(5, 3, 3)
    whole, cut = looked_at(around, 20), looked_at(around, 18)
    assert cut == [row - {18, 19} for row in whole[:18]]
    assert min(len(row) for row in cut) == 7


@pytest.mark.parametrize("time", [1, 2, 5])
def test_a_sequence_shorter_than_the_window_is_seen_whole(time: int) -> None:
    q, k, v = inputs(time)
    for around in (NeighborhoodAround(6), NeighborhoodAround(7, stride=4), GridNeighborhoodAround(5, 2, 5)):
        assert_same(run(memory_of(around), q, k, v), dense(q, k, v))
    assert looked_at(NeighborhoodAround(4, 2), time) == [{*range(i % 2, time, 2)} for i in range(time)]


def test_it_moves_along_in_the_interior_only() -> None:
    q, k, v = inputs(20)
    memory = memory_of(NeighborhoodAround(5))
    out, moved = run(memory, q, k, v), run(memory, *(x[:, 3:17] for x in (q, k, v)))
    same = [bool((out[:, t] - moved[:, t - 3]).abs().max() < 1e-12) for t in range(3, 17)]
    assert same == [False] * 2 + [True] * 10 + [False] * 2
    memory = memory_of(GridNeighborhoodAround(4, 3, 1))
    out, moved = run(memory, q, k, v), run(memory, *(x[:, 4:] for x in (q, k, v)))
    assert_same(out[:, 8:], moved[:, 4:])
    assert float((out[:, 4:8] - moved[:, :4]).abs().amax((0, 2, 3)).min()) > 1e-6


def test_the_best_are_chosen_among_the_neighbours() -> None:
    """Not the neighbours among the best."""
    around, time = NeighborhoodAround(3), 9
    q, k, v = inputs(time)
    expected = torch.zeros_like(q)
    for t, b, h in itertools.product(range(time), range(B), range(H)):
        near = sorted(axis(t, time, 3), key=lambda s: -float(q[b, t, h] @ k[b, s, h]))[:2]
        weights = (k[b, near, h] @ q[b, t, h] / math.sqrt(K)).softmax(0)
        expected[b, t, h] = weights @ v[b, near, h]
    assert_same(run(memory_of(around, top=2), q, k, v), expected)


# As a layer, and in a model.


def turned(x: Tensor, base: float) -> Tensor:
    """x (B, T, H, K), each at its own position."""
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * base ** (
        -torch.arange(K // 2, dtype=torch.float64) * 2 / K
    )
    z = torch.complex(x[..., : K // 2], x[..., K // 2 :]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], -1)


def attention(layer: WaitToAttendLayer, x: Tensor, seen: list[set[int]]) -> Tensor:
    """What the layer says of whole texts."""
    q, k, v = (y.unflatten(-1, (H, K)) for y in F.linear(x, layer.project.weight).split(WIDTH, -1))
    return F.linear(dense(turned(q, 1e4), turned(k, 1e4), v, seen).flatten(-2), layer.out.weight)


def layer_of(spec: object) -> WaitToAttendLayer:
    assert isinstance(spec, WaitToAttend)
    layer = spec.build(WIDTH, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize("cuts", [[19], [4, 1, 5, 9], [1] * 19, [2, 0, 17]])
@torch.no_grad()
def test_in_pieces_it_is_what_it_is_as_a_whole(cuts: list[int]) -> None:
    layer, x = layer_of(mn.zoo.neighborhood_attention(4, stride=3, causal=False)), torch.randn(B, 19, WIDTH).double()
    pieces, state = [], layer.init_state(B)
    for piece in x.split(cuts, 1):
        y, state = layer(piece, state)
        pieces.append(y)
    aligned = torch.cat([*pieces, layer.flush(state)], 1)[:, 3:]
    assert_same(aligned, attention(layer, x, [axis(i, 19, 4, 1, 3) for i in range(19)]))


@torch.no_grad()
def test_rows_of_other_lengths_end_where_they_end() -> None:
    layer, x = layer_of(mn.zoo.neighborhood_attention(3, dilation=2, causal=False)), torch.randn(B, 19, WIDTH).double()
    lengths = (6, 15)
    y, state = layer(x, mask=torch.tensor(lengths)[:, None] > torch.arange(19))
    last = layer.flush(state)
    for b, length in enumerate(lengths):
        seen = [axis(i, length, 3, 2) for i in range(length)]
        assert_same(torch.cat([y[b, :length], last[b]])[4:], attention(layer, x[b : b + 1, :length], seen)[0])


@pytest.mark.parametrize("grid", [None, 4])
@torch.no_grad()
def test_a_model_of_it(grid: int | None) -> None:
    """Two blocks that see both sides, with a causal one in between."""
    time = 20 if grid else 17
    late = mn.zoo.neighborhood_attention(2, grid=grid, causal=False)
    pattern = (late, mn.LayerSpec(KVMemory(read=mn.Softmax(rotary=100.0))), late)
    spec = mn.ModelSpec(pattern=pattern, width=WIDTH, depth=3, heads=H, vocabulary=11, ffn=1.0)
    model, tokens = mn.LanguageModel(spec).double(), torch.randint(0, 11, (B, time))
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    delay = 2 * late.delay
    assert spec.delay == delay == (10 if grid else 2)
    logits, state = model(tokens[:, :7])
    further, state = model(tokens[:, 7:], state)
    aligned = torch.cat([logits, further, flush(model, state)], 1)[:, delay:]

    near = [axis(i, time, 2) for i in range(time)]
    if grid:
        line, rows = [axis(i, 4, 2) for i in range(4)], [axis(i, 5, 2) for i in range(5)]
        near = [{4 * r + c for r in rows[i // 4] for c in line[i % 4]} for i in range(time)]
    x = model.embedding(tokens)
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        layer = block.layer
        y = block.norm(x)
        x = block.feed(x + (attention(layer, y, near) if isinstance(layer, WaitToAttendLayer) else layer(y)[0]))
    assert_same(aligned, model.answered(model.norm(x)), 1e-10)


def test_the_declaration_of_a_published_system() -> None:
    late = mn.zoo.neighborhood_attention(7, dilation=2, causal=False)
    assert isinstance(late, WaitToAttend) and late.delay == 12 and late.kept == "25 keys and values, 12 queries"
    assert mn.zoo.neighborhood_attention(3, grid=8, causal=False).delay == 18
    assert mn.zoo.neighborhood_attention(1, causal=False).delay == 0
    assert mn.zoo.neighborhood_attention(7).delay == 0
    assert mn.from_json(late.to_json()) == late


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Delayed(5, around=NeighborhoodAround(4, 2)),
            InvalidValue,
            "Delayed(around=NeighborhoodAround(window=4, dilation=2)) looks at up to 6 tokens after the query's own, "
            "so delay= is at least 6; got 5.",
        ),
        (
            lambda: Delayed(5, around=mn.memory.Neighborhood(4)),  # pyright: ignore[reportArgumentType]
            InvalidType,
            "around= takes a TwoSided, for example NeighborhoodAround(7); got Neighborhood(window=4",
        ),
        (
            lambda: NeighborhoodAround(0),
            InvalidValue,
            "NeighborhoodAround(window=) counts the query itself, so at least 1; got 0.",
        ),
        (
            lambda: NeighborhoodAround(dilation=0),
            InvalidValue,
            "NeighborhoodAround(dilation=) is a number of tokens of at least 1; got 0.",
        ),
        (
            lambda: NeighborhoodAround(3, stride=4),
            InvalidValue,
            "NeighborhoodAround(stride=) lies between 1 and the window of 3; got 4.",
        ),
        (lambda: GridNeighborhoodAround(rows=0), InvalidValue, "GridNeighborhoodAround(rows=) is at least 1; got 0."),
        (
            lambda: GridNeighborhoodAround(8, columns=3, column_dilation=3),
            InvalidValue,
            "GridNeighborhoodAround(columns=) times column_dilation may not exceed the width of 8; got 3 * 3.",
        ),
        (
            lambda: mn.zoo.neighborhood_attention(3, stride=2, grid=8, causal=False),
            InvalidValue,
            "neighborhood_attention(stride=) is for lines; got 2 with grid=8.",
        ),
    ],
)
def test_what_cannot_be_is_said(make: object, error: type[Exception], message: str) -> None:
    assert callable(make)
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


def test_what_has_waited_longer_than_the_delay_is_refused() -> None:
    q, k, v = inputs(3)
    waited = torch.full((B, 3, H), 3.0, dtype=torch.float64)
    with pytest.raises(InvalidValue, match="control 'waited'"):
        mn.run(memory_of(NeighborhoodAround(3)), q, k, v, {"waited": waited})
