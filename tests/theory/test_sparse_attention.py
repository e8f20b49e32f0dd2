"""What sparse attention must satisfy: dilated windows, powers of two, neighbourhoods, landmarks, dynamic masks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import ValuePreference
from mnemos.memory import Dilated, DynamicMask, GridNeighborhood, Landmark, Mask, Neighborhood, PowersOfTwo, Read

B, T, H, K = 2, 29, 2, 4


def inputs(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def matrix(mask: Mask, time: int) -> Tensor:
    """Who sees whom, (T, T) bool, causal."""
    at = torch.arange(time)
    return mask.sees(at[:, None], at) & (at <= at[:, None])


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Softmax attention under a mask (T, T)."""
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhts,bshv->bthv", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def run(read: Read | Mask, q: Tensor, k: Tensor, v: Tensor, retain: mn.memory.Retain | None = None) -> Tensor:
    read = mn.Softmax(mask=read) if isinstance(read, Mask) else read
    return mn.run(mn.KVMemory(retain=retain, read=read), q, k, v)[0]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


# Masks in general.

MASKS = [
    *itertools.starmap(Dilated, [(0, 1), (3, 1), (3, 2), (4, 5)]),
    *itertools.starmap(PowersOfTwo, [(1, 1, 0), (1, 3, 2), (4, 2, 1), (3, 0, 0), (2, 6, 1)]),
    *itertools.starmap(Neighborhood, [(1, 1, 1), (7, 1, 1), (4, 3, 1), (5, 1, 3), (4, 2, 4)]),
    *itertools.starmap(GridNeighborhood, [(5, 3, 3, 1, 1), (6, 2, 2, 1, 3), (7, 1, 4, 1, 1), (4, 3, 2, 2, 2)]),
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_what_is_gathered_is_masked_dense_attention(mask: Mask) -> None:
    """Over several blocks of queries, and with no more kept than the mask reaches back."""
    q, k, v = inputs(150)
    expected = dense(q, k, v, matrix(mask, 150))
    assert_same(run(mask, q, k, v), expected)
    if mask.reach is not None:
        assert_same(run(mask, q, k, v, mn.Window(mask.reach + 1)), expected)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_what_is_looked_at_is_among_the_candidates(mask: Mask) -> None:
    seen = matrix(mask, 150)
    for first, last in ((0, 0), (0, 149), (5, 20), (63, 64), (120, 149)):
        found = mask.candidates(first, last, seen.device)
        wanted = set(seen[first : last + 1].any(0).nonzero().flatten().tolist())
        assert found is not None and wanted <= set(found.tolist()) and found.tolist() == sorted(set(found.tolist()))
        assert found[0] >= 0 and found[-1] == last
        if isinstance(mask, PowersOfTwo):  # whole blocks that are seen, and no others
            assert {p // mask.block for p in wanted} == set((found // mask.block).tolist())


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_the_reach_is_the_largest_lag(mask: Mask) -> None:
    seen = matrix(mask, 150)
    assert seen.diagonal().all()
    lags = (torch.arange(150)[:, None] - torch.arange(150))[seen]
    assert mask.reach is None or int(lags.max()) == mask.reach


@pytest.mark.parametrize(
    "mask", [Dilated(3, 2), PowersOfTwo(2), Neighborhood(4, 2, 2), GridNeighborhood(5, 2, 3)], ids=str
)
def test_nothing_comes_from_outside_the_mask(mask: Mask) -> None:
    q, k, v = inputs()
    v.requires_grad_(), k.requires_grad_()
    out = run(mask, q, k, v)
    seen = matrix(mask, T)
    for t in (0, 7, 28):
        by_key, by_value = torch.autograd.grad(out[:, t].square().sum(), (k, v), retain_graph=True)
        assert not by_key[:, ~seen[t]].any() and not by_value[:, ~seen[t]].any()
        assert by_value[:, seen[t]].all()


# Dilated windows.


def test_a_dilated_window_is_a_plain_one_on_each_residue_class() -> None:
    q, k, v = inputs()
    for gap in (1, 2, 3, 5):
        out = run(Dilated(4, gap), q, k, v, mn.Window(4 * gap + 1))
        for residue in range(gap):
            part = slice(residue, None, gap)
            assert_same(out[:, part], run(mn.Softmax(), q[:, part], k[:, part], v[:, part], mn.Window(5)))


def test_limits_of_dilated_windows() -> None:
    q, k, v = inputs()
    causal = torch.ones(T, T).tril().bool()
    assert_same(run(Dilated(T - 1), q, k, v), dense(q, k, v, causal))
    assert torch.equal(run(Dilated(0, 3), q, k, v), v)
    assert int(matrix(Dilated(4, 3), T).sum(1).max()) == 5


def test_the_reach_of_stacked_dilated_windows() -> None:
    """After D layers what comes through lies no further away than D window gap, and in multiples of the gap."""
    spec = mn.ModelSpec(pattern=(mn.zoo.sliding_window_dilated(2, gap=3),), width=8, depth=2, heads=1, vocabulary=5)
    model = mn.LanguageModel(spec).double()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, _ = model(torch.randint(0, 5, (1, 20)))
    (gradient,) = torch.autograd.grad(logits[0, 19].square().sum(), embedded)
    assert {t for t in range(20) if gradient[0, t].any()} == {19, 16, 13, 10, 7}


# Powers of two.


def test_hops_are_set_bits() -> None:
    """A distance is covered in as many hops as it has bits set, so that d layers reach all distances below 2^d."""
    time = 64
    seen = matrix(PowersOfTwo(1), time).double()
    distance = torch.arange(time)[:, None] - torch.arange(time)
    reached, hops = torch.eye(time, dtype=torch.bool), torch.full((time, time), -1)
    for d in range(7):
        hops[reached & (hops < 0)] = d
        assert reached[(distance >= 0) & (distance < 2**d)].all()
        reached = (reached.double() @ seen) > 0
    bits = distance.clamp(min=0).apply_(lambda n: int(n).bit_count())
    assert torch.equal(hops, torch.where(distance >= 0, bits, -1))


def test_equal_edges_reach_less_far_in_a_window() -> None:
    """Seven entries a query at most: in six layers 63 tokens back by powers, 36 in a window."""
    time = 64
    powers, window = matrix(PowersOfTwo(1), time), matrix(Dilated(6), time)
    assert int(powers.sum(1).max()) == int(window.sum(1).max()) == 7
    reach = [torch.linalg.matrix_power(m.double(), 6)[-1].flip(0).nonzero().max() for m in (powers, window)]
    assert reach == [63, 36]


@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (1, 0), (3, 2)])
def test_degrees_are_logarithmic(window: int, sinks: int) -> None:
    for time in (17, 64, 300):
        degree = int(matrix(PowersOfTwo(1, window, sinks), time).sum(1).max())
        assert degree <= window + sinks + math.ceil(math.log2(time)) + 1


def test_the_cost_is_linear_times_a_logarithm() -> None:
    """At most 1 + log2 T blocks a block, as the plan counts it."""
    layer = mn.zoo.power_attention(block=64, near=1, sinks=0).build(64, 1)
    for time in (1024, 4096, 16384):
        blocks = 1 + math.log2(time // 64)
        assert layer.plan(time).flops <= time * 64 * (1 + blocks) * 2 * (64 + 64)


def test_limits_of_powers_of_two() -> None:
    q, k, v = inputs()
    causal = torch.ones(T, T).tril().bool()
    assert_same(run(PowersOfTwo(1, window=T), q, k, v), dense(q, k, v, causal))
    assert_same(run(PowersOfTwo(T), q, k, v), dense(q, k, v, causal))
    assert matrix(PowersOfTwo(1, 0, 0), 3).tril().equal(causal[:3, :3])
    assert not matrix(PowersOfTwo(1, 0, 0), 4)[3, 0]


def test_blocks_see_each_other_whole_and_as_tokens_would() -> None:
    tokens = matrix(PowersOfTwo(1, 2, 1), 7)
    blocks = tokens.repeat_interleave(4, 0).repeat_interleave(4, 1) & torch.ones(28, 28).tril().bool()
    assert torch.equal(matrix(PowersOfTwo(4, 2, 1), 28), blocks)


@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (1, 0), (7, 0), (2, 5), (6, 3)])
def test_blocks_of_one_token_are_the_rule_for_tokens(window: int, sinks: int) -> None:
    """A lag of 0, of a power of two, or below the window, or one of the first positions."""
    seen, powers = matrix(PowersOfTwo(1, window, sinks), 70), [2**n for n in range(7)]
    for i in range(70):
        wanted = [j for j in range(i + 1) if i == j or i - j in powers or i - j < window or j < sinks]
        assert seen[i].nonzero().flatten().tolist() == wanted


def test_one_token_of_each_distance_is_found() -> None:
    """The system of the zoo keeps everything, reads little of it, and has no gap in what its layers reach."""
    spec = mn.ModelSpec(
        pattern=(mn.zoo.power_attention(block=1, near=1, sinks=0),), width=8, depth=4, heads=1, vocabulary=5
    )
    model = mn.LanguageModel(spec).double()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, state = model(torch.randint(0, 5, (1, 32)))
    (gradient,) = torch.autograd.grad(logits[0, 31].square().sum(), embedded)
    reached = {31 - t for t in range(32) if gradient[0, t].any()}
    assert reached == {n for n in range(32) if n.bit_count() <= 4}
    assert any(x.shape[1] == 32 for name, x in state.tensors() if name.endswith("keys"))


# Neighbourhoods.


def axis(place: int, length: int, window: int, dilation: int = 1) -> set[int]:
    """The window of one axis that is not causal, by counting."""
    line = [i for i in range(length) if i % dilation == place % dilation]
    left, right = window // 2, window // 2 + window % 2 - 1
    centre = min(max(line.index(place), left), len(line) - 1 - right)
    return {line[i] for i in range(centre - left, centre + right + 1)}


def test_the_windows_of_the_published_examples() -> None:
    assert [axis(i, 7, 3) for i in (0, 1, 6)] == [{0, 1, 2}, {0, 1, 2}, {4, 5, 6}]
    assert [axis(i, 7, 4) for i in (0, 2, 3, 5, 6)] == [{0, 1, 2, 3}] * 2 + [{1, 2, 3, 4}] + [{3, 4, 5, 6}] * 2
    assert [axis(i, 7, 3, 2) for i in (0, 1, 6)] == [{0, 2, 4}, {1, 3, 5}, {2, 4, 6}]


@pytest.mark.parametrize(
    "mask",
    list(itertools.starmap(GridNeighborhood, [(7, 2, 3, 1, 1), (7, 3, 4, 1, 1), (7, 2, 3, 1, 2), (6, 2, 2, 2, 3)])),
    ids=str,
)
def test_a_grid_neighbourhood_is_a_product_of_axes(mask: GridNeighborhood) -> None:
    """And above the query's own row, always of full size."""
    height = 6
    seen = matrix(mask, height * mask.width)
    for t in range(height * mask.width):
        row, column = divmod(t, mask.width)
        columns = axis(column, mask.width, mask.columns, mask.column_dilation)
        assert len(columns) == mask.columns
        rows = [row - i * mask.row_dilation for i in range(mask.rows) if row >= i * mask.row_dilation]
        wanted = {r * mask.width + c for r in rows for c in columns if r * mask.width + c <= t}
        assert {i for i, s in enumerate(seen[t].tolist()) if s} == wanted
        above = seen[t, : row * mask.width]
        assert int(above.sum()) == (len(rows) - 1) * mask.columns


def test_limits_of_grid_neighbourhoods() -> None:
    causal = torch.ones(30, 30).tril().bool()
    assert torch.equal(matrix(GridNeighborhood(5, 6, 5), 30), causal)
    along = matrix(GridNeighborhood(5, 1, 3), 30)
    row = matrix(GridNeighborhood(5, 1, 3), 5)
    assert torch.equal(along, torch.block_diag(*[row] * 6).bool())
    assert torch.equal(matrix(GridNeighborhood(1, 4, 1), 30), matrix(Neighborhood(4), 30))
    assert torch.equal(matrix(GridNeighborhood(1, 4, 1, 3), 30), matrix(Neighborhood(4, 3), 30))


def test_grid_neighbourhoods_move_along_in_the_interior_only() -> None:
    seen = matrix(GridNeighborhood(9, 3, 3), 81).view(9, 9, 9, 9)
    inner = seen[4, 4]
    assert torch.equal(seen[5, 6, 1:, 2:], inner[:-1, :-2])
    assert not torch.equal(seen[4, 8, :, 4:], inner[:, :-4])


def test_limits_of_neighbourhoods_on_a_line() -> None:
    q, k, v = inputs(28)
    causal = torch.ones(28, 28).tril().bool()
    assert_same(run(Neighborhood(28), q, k, v), dense(q, k, v, causal))
    assert torch.equal(run(Neighborhood(1), q, k, v), v)
    assert_same(run(Neighborhood(5), q, k, v), run(mn.Softmax(), q, k, v, mn.Window(5)))
    blocks = torch.block_diag(*[torch.ones(7, 7)] * 4).bool() & causal
    assert torch.equal(matrix(Neighborhood(7, stride=7), 28), blocks)
    out = run(Neighborhood(4, 3, 2), q, k, v)
    for residue in range(3):
        part = slice(residue, None, 3)
        assert_same(out[:, part], run(Neighborhood(4, 1, 2), q[:, part], k[:, part], v[:, part]))


def test_a_neighbourhood_longer_than_the_sequence_is_full_attention() -> None:
    q, k, v = inputs()
    causal = torch.ones(T, T).tril().bool()
    for mask in (Neighborhood(T + 1), Neighborhood(100), Neighborhood(40, stride=7)):
        assert_same(run(mask, q, k, v), dense(q, k, v, causal))


@pytest.mark.parametrize(("columns", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 1), (7, 1), (3, 2), (2, 3)])
def test_a_grid_neighbourhood_of_one_row_is_a_line(columns: int, dilation: int) -> None:
    """Row by row, and nothing of any other."""
    seen = matrix(GridNeighborhood(7, 1, columns, 1, dilation), 28)
    for t in range(28):
        row, column = divmod(t, 7)
        wanted = {7 * row + c for c in axis(column, 7, columns, dilation) if c <= column}
        assert {i for i, s in enumerate(seen[t].tolist()) if s} == wanted


def test_a_stride_group_shares_the_beginning_of_its_window() -> None:
    seen = matrix(Neighborhood(5, stride=3), 30)
    first = seen.long().argmax(1)
    for t in range(30):
        leader = t // 3 * 3 + 2
        assert int(first[t]) == max(leader - 4, 0) and int(seen[t].sum()) == t - int(first[t]) + 1


# Landmarks.


def grouped(scores: Tensor, block: int) -> Tensor:
    """Landmark weights of one query at the end of `scores` (N,), literally."""
    now, period = len(scores) - 1, block + 1
    groups: dict[str, list[int]] = {"local": []}
    for j in range(now + 1):
        if j // period == now // period:
            if j % period != block:
                groups["local"].append(j)
        else:
            groups.setdefault("local" if j % period == block else f"block {j // period}", []).append(j)
    p = torch.zeros_like(scores)
    for members in groups.values():
        p[members] = scores[members].softmax(0)
    alpha = torch.zeros_like(scores)
    for j in range(now + 1):
        if j % period != block:
            alpha[j] = p[j] if j // period == now // period else p[j] * p[j // period * period + block]
    return alpha


def landmark_weights(read: Landmark, scores: Tensor) -> Tensor:
    """The weights (T, T) for scores (T, T), by values that are unit vectors."""
    time = len(scores)
    k = torch.eye(time, dtype=torch.float64)[None, :, None]
    return run(read.replace(scale=1.0), scores[None, :, None], k, k)[0, :, 0]


@pytest.mark.parametrize("block", [1, 3, 6, 40])
def test_landmark_weights(block: int) -> None:
    scores = torch.randn(T, T, dtype=torch.float64)
    weights = landmark_weights(Landmark(block), scores)
    for t in range(T):
        assert_same(weights[t, : t + 1], grouped(scores[t, : t + 1], block))
    assert_same(weights.sum(1), torch.ones(T, dtype=torch.float64))
    assert not weights[:, block :: block + 1].any()


def test_landmarks_that_know_their_block_make_full_attention() -> None:
    block = 4
    scores = torch.randn(T, T, dtype=torch.float64)
    ordinary = torch.arange(T) % (block + 1) != block
    for j in range(block, T, block + 1):
        scores[:, j] = scores[:, j - block : j].logsumexp(1)
    weights = landmark_weights(Landmark(block), scores)
    causal = torch.ones(T, T).tril().bool()
    assert_same(weights, scores.masked_fill(~(causal & ordinary), -torch.inf).softmax(1))


def test_less_than_a_block_is_plain_attention() -> None:
    q, k, v = inputs(8)
    assert_same(run(Landmark(8), q, k, v), run(mn.Softmax(), q, k, v))


@pytest.mark.parametrize("rotary", [None, 100.0])
def test_reading_all_blocks_is_the_attention_of_training(rotary: float | None) -> None:
    q, k, v = inputs()
    whole = run(Landmark(4, rotary=rotary), q, k, v)
    assert_same(run(Landmark(4, top=5, rotary=rotary), q, k, v), whole)
    assert float((run(Landmark(4, top=4, rotary=rotary), q, k, v) - whole).abs().max()) > 1e-3


def test_only_the_best_blocks_are_read() -> None:
    scores = torch.randn(T, T, dtype=torch.float64)
    weights = landmark_weights(Landmark(3, top=2), scores)
    for t in (13, 20, 28):
        current = t // 4
        marks = scores[t, 3 : 4 * current : 4]
        best = set(marks.topk(2).indices.tolist())
        left_out = scores[t, : t + 1].clone()
        for b in set(range(current)) - best:
            left_out[4 * b + 3] = -torch.inf
        assert_same(weights[t, : t + 1], grouped(left_out, 3))
        assert {j // 4 for j in range(4 * current) if weights[t, j] > 0} == best


def test_a_landmark_without_weight_removes_its_block() -> None:
    scores = torch.randn(T, T, dtype=torch.float64)
    scores[:, 9] = -1e9
    weights = landmark_weights(Landmark(4), scores)
    assert not weights[10:, 5:10].any()
    shorter = torch.cat([scores[:, :5], scores[:, 10:]], 1)[[*range(5), *range(10, T)]]
    assert_same(weights[10:][:, [*range(5), *range(10, T)]], landmark_weights(Landmark(4), shorter)[5:])


def test_within_a_block_only_its_own_scores_matter() -> None:
    scores = torch.randn(T, T, dtype=torch.float64)
    weights = landmark_weights(Landmark(4), scores)
    ratio = weights[20:, 5:9] / weights[20:, 6:7]
    assert_same(ratio, (scores[20:, 5:9] - scores[20:, 6:7]).exp(), 1e-10)


def turned(x: Tensor, position: int, base: float = 100.0) -> Tensor:
    """x (K,) at a position."""
    angle = position * base ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
    z = torch.complex(x[: K // 2], x[K // 2 :]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag])


def stingy(q: Tensor, k: Tensor, v: Tensor, block: int, top: int) -> Tensor:
    """The last query of one head, (K,), by slots: the query's block stands behind `top` + 1 slots of a block each, or
    as many as there are blocks. Scored, the last `top` blocks have their own slots, all older ones the first; those
    chosen take, in the order of time, the slots before the query's block."""
    period, now = block + 1, len(k) - 1
    current = now // period
    slots = min(current, top + 1)

    def score(j: int, slot: int) -> Tensor:
        asked = turned(q[now], slots * period + now % period)
        return asked @ turned(k[j], slot * period + j % period) / math.sqrt(K)

    told = {b: float(score(b * period + block, max(slots - (current - b), 0))) for b in range(current)}
    chosen = sorted(sorted(told, key=lambda b: -told[b])[:top])
    local = [j for j in range(current * period, now + 1) if j % period != block]
    slot_of = {b: slots - len(chosen) + i for i, b in enumerate(chosen)}
    first = [score(j, slots) for j in local] + [score(b * period + block, slot_of[b]) for b in chosen]
    weights = torch.stack(first).softmax(0)
    out = sum((p * v[j] for p, j in zip(weights, local, strict=False)), torch.zeros(K, dtype=torch.float64))
    for p, b in zip(weights[len(local) :], chosen, strict=True):
        members = range(b * period, b * period + block)
        within = torch.stack([score(j, slot_of[b]) for j in members]).softmax(0)
        out = out + p * (within[:, None] * v[b * period : b * period + block]).sum(0)
    return out


@pytest.mark.parametrize(("block", "top"), [(3, 1), (3, 2), (1, 3), (5, 2)])
def test_stingy_positions_by_their_slots(block: int, top: int) -> None:
    q, k, v = inputs()
    out = run(Landmark(block, top, rotary=100.0, positions="stingy"), q, k, v)
    for t in (block, 2 * block + 1, 17, 27, T - 1):
        if t != block:  # the first landmark itself has its block to look at
            expected = [stingy(q[b, : t + 1, h], k[b, : t + 1, h], v[b, : t + 1, h], block, top) for b, h in BOTH]
            assert_same(torch.stack([out[b, t, h] for b, h in BOTH]), torch.stack(expected))


BOTH = list(itertools.product(range(B), range(H)))


def test_few_blocks_stand_where_they_are() -> None:
    q, k, v = inputs(19)  # three blocks of six, and one token
    plain, near = (Landmark(5, 3, rotary=100.0, positions=p) for p in ("original", "stingy"))
    assert_same(run(near, q, k, v), run(plain, q, k, v))
    q, k, v = inputs(30)
    assert float((run(near, q, k, v) - run(plain, q, k, v)).abs().max()) > 1e-3


def test_how_long_ago_a_block_was_does_not_matter_once_it_is_far() -> None:
    """Blocks nobody asks for may be put in between: no distance grows with the stream."""
    read = Landmark(3, 2, rotary=100.0, positions="stingy")
    q, k, v = inputs(24)
    q[:, -1] = 1.0
    k[:, 11::4] = 0.0
    k[:, [3, 7]] = turned(torch.full((K,), 9.0, dtype=torch.float64), 12)  # found from three blocks further on
    longer = [torch.cat([x[:, :8], torch.zeros_like(x), x[:, 8:]], 1) for x in (q, k, v)]
    assert_same(run(read, *longer)[:, -1], run(read, q, k, v)[:, -1], 1e-10)
    original = read.replace(positions="original")
    assert float((run(original, *longer)[:, -1] - run(original, q, k, v)[:, -1]).abs().max()) > 1e-4


@pytest.mark.parametrize("many", [0, 1000])
@pytest.mark.parametrize(
    "read",
    [
        Landmark(5, rotary=100.0),
        Landmark(2, 3, scale=0.7),
        Landmark(7, 2, rotary=100.0, positions="stingy"),
        Landmark(100, 1),
    ],
    ids=str,
)
def test_the_table_of_blocks_is_the_rule_itself(read: Landmark, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several blocks of queries, grouped heads, and going on from a state."""
    monkeypatch.setattr("mnemos.execute.landmark_blocks.MANY", many)
    monkeypatch.setattr(
        "mnemos.execute.landmark_blocks.QueryBlocks.run", lambda *_: pytest.fail("rows without gaps need no other plan")
    )
    memory, (_, k, v) = mn.KVMemory(read=read), inputs(150)
    q = torch.randn(B, 150, 2 * H, K, dtype=torch.float64)
    whole, _ = mn.run(memory, q, k, v, plan="landmark blocks")
    first, state = mn.run(memory, q[:, :67], k[:, :67], v[:, :67], plan="landmark blocks")
    rest, _ = mn.run(memory, q[:, 67:], k[:, 67:], v[:, 67:], state=state, plan="landmark blocks")
    monkeypatch.undo()
    expected, _ = mn.run(memory, q, k, v, plan="query blocks")
    assert_same(whole, expected)
    assert_same(torch.cat([first, rest], 1), expected)


def test_landmarks_find_what_they_were_told_of() -> None:
    """A value eight times further back than a window of the same size, behind the right landmark."""
    read = Landmark(7, top=1, scale=20.0)
    keys = torch.nn.functional.normalize(torch.randn(1, 256, 1, 32, dtype=torch.float64), dim=-1)
    values = torch.randn(1, 256, 1, K, dtype=torch.float64)
    keys[:, 47] = keys[:, 43]  # the landmark of block 5 stands for what is asked for
    query = keys[:, 43:44].expand(-1, 256, -1, -1)
    out = run(read, query, keys, values)
    assert_same(out[:, -1], values[:, 43], 0.05)
    windowed = run(mn.Softmax(scale=20.0), query, keys, values, mn.Window(24))
    assert float((windowed[:, -1] - values[:, 43]).abs().max()) > 0.3


# Dynamic masks.


def told(read: DynamicMask, q: Tensor, k: Tensor, v: Tensor, preference: Tensor) -> Tensor:
    return mn.run(mn.KVMemory(read=read), q, k, v, {"preference": preference})[0]


def test_a_preference_is_added_to_the_scores() -> None:
    q, k, v = inputs()
    m = torch.randn(B, T, H, dtype=torch.float64)
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(K) + m.transpose(1, 2)[:, :, None]
    weights = scores.masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf).softmax(-1)
    assert_same(told(DynamicMask(), q, k, v, m), torch.einsum("bhts,bshv->bthv", weights, v))


def test_an_equal_preference_changes_nothing() -> None:
    q, k, v = inputs()
    for value in (0.0, 1.7):
        assert_same(told(DynamicMask(), q, k, v, torch.full((B, T, H), value).double()), run(mn.Softmax(), q, k, v))


def test_a_large_preference_takes_all_attention() -> None:
    q, k, v = inputs()
    m = torch.zeros(B, T, H, dtype=torch.float64)
    m[:, 4] = 1e3
    assert_same(told(DynamicMask(), q, k, v, m)[:, 4:], v[:, 4:5].expand(-1, T - 4, -1, -1))


def test_what_is_not_kept_might_as_well_be_infinitely_low() -> None:
    """The quota is counted among the entries at and before the query, so that nothing depends on later ones."""
    q, k, v = inputs()
    m = torch.randn(B, T, H, dtype=torch.float64)
    out = told(DynamicMask(5), q, k, v, m)
    for t in (2, 4, 5, 17, 28):
        lowered = torch.full_like(m[:, : t + 1], -1e9)
        best = m[:, : t + 1].topk(min(5, t + 1), 1).indices
        lowered.scatter_(1, best, m.gather(1, best))
        assert_same(told(DynamicMask(), q[:, : t + 1], k[:, : t + 1], v[:, : t + 1], lowered)[:, t], out[:, t])
    assert_same(told(DynamicMask(T), q, k, v, m), told(DynamicMask(), q, k, v, m))


def test_of_equal_entries_the_newest_are_kept() -> None:
    q, k, v = inputs()
    equal = torch.zeros(B, T, H, dtype=torch.float64)
    assert_same(told(DynamicMask(5), q, k, v, equal), run(mn.Softmax(), q, k, v, mn.Window(5)))
    out = run(Landmark(3, top=1), q, 0 * k, v)
    newest = run(Landmark(3), q, 0 * k, v, mn.Window(8))  # the current block and the whole one before it
    ends = torch.arange(T) % 4 == 3
    assert_same(out[:, ends], newest[:, ends])


def test_the_preference_of_a_layer_is_the_formula() -> None:
    layer = mn.zoo.dynamic_mask_attention().build(8, H).double()
    assert isinstance(layer, mn.MemoryLayer)
    (rule,) = layer.telling.values()
    torch.nn.init.normal_(rule.linear.weight)
    torch.nn.init.normal_(rule.speed)
    x = torch.randn(B, 9, 8, dtype=torch.float64)
    _, state = layer(x)
    v = x @ layer.project.weight[-8:].T
    expected = torch.exp(rule.speed * torch.log1p(torch.exp(v @ rule.linear.weight.T)))
    assert_same(state.child("memory")["values"][..., -1], expected)
    assert_same(state.child("memory")["values"][..., :-1], v.unflatten(-1, (H, -1)))
    torch.nn.init.zeros_(rule.linear.weight), torch.nn.init.ones_(rule.speed)
    plain = mn.LayerSpec(mn.KVMemory(read=mn.Softmax(rotary=10000.0))).build(8, H).double()
    plain.load_state_dict({n: x for n, x in layer.state_dict().items() if not n.startswith("telling")})
    assert_same(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Neighborhood, {"window": 0}, "Neighborhood(window=) counts the query itself, so at least 1; got 0."),
        (Neighborhood, {"dilation": 0}, "Neighborhood(dilation=) is a number of tokens of at least 1; got 0."),
        (
            Neighborhood,
            {"window": 3, "stride": 4},
            "Neighborhood(stride=) lies between 1 and the window of 3; got 4.",
        ),
        (GridNeighborhood, {"rows": 0}, "GridNeighborhood(rows=) is at least 1; got 0."),
        (
            GridNeighborhood,
            {"width": 8, "columns": 3, "column_dilation": 3},
            "GridNeighborhood(columns=) times column_dilation may not exceed the width of 8; got 3 * 3.",
        ),
        (Landmark, {"block": 0}, "Landmark(block=) is a number of tokens of at least 1; got 0."),
        (Landmark, {"top": 0}, "Landmark(top=) is a number of blocks of at least 1, or None for all; got 0."),
        (
            Landmark,
            {"positions": "stingy", "rotary": 100.0},
            'Landmark(positions="stingy") gives positions to the blocks that are chosen: it needs rotary= and top=; '
            "got rotary=100.0, top=None.",
        ),
        (
            Landmark,
            {"positions": "near"},
            'Landmark(positions=) is "kept", "original" or "stingy"; got \'near\'.',
        ),
        (Landmark, {"scale": -1.0}, "Landmark(scale=) must be positive; got -1.0."),
        (DynamicMask, {"keep": 0}, "DynamicMask(keep=) is a number of entries of at least 1, or None for all; got 0."),
    ],
)
def test_options_that_cannot_be(kind: type, options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        kind(**options)
    assert str(caught.value) == message


def test_other_mistakes() -> None:
    with pytest.raises(InvalidValue) as caught:
        mn.zoo.neighborhood_attention(3, stride=2, grid=8)
    assert str(caught.value) == "neighborhood_attention(stride=) is for lines; got 2 with grid=8."
    with pytest.raises(InvalidValue) as caught:
        ValuePreference().build(8, 2, 4)
    assert str(caught.value) == "ValuePreference gives one number a head, not one a channel."
    q, k, v = inputs(5)
    with pytest.raises(InvalidValue, match="missing control 'preference'"):
        run(DynamicMask(), q, k, v)
    with pytest.raises(InvalidValue) as caught:  # it belongs to the keys, of which there are fewer
        told(DynamicMask(), q, k[:, :, :1], v[:, :, :1], torch.zeros(B, 5, H, dtype=torch.float64))
    assert "control 'preference' must have shape (batch, time, heads) = (2, 5, 1); got (2, 5, 2)." in str(caught.value)
