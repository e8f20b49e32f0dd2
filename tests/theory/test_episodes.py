"""What memories in episodes must satisfy: HCAM's chunks, EM-LLM's events, graphs that are cut."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import ChunkRecall, ChunkRecallLayer, given
from mnemos.layers.chunk_recall import sinusoids
from mnemos.memory import (
    Address,
    EpisodicMemory,
    Every,
    MeanKey,
    Recall,
    Representatives,
    Surprise,
    conductance,
    modularity,
    refine_boundaries,
)
from mnemos.models import read_with_surprise

B, H, K = 2, 2, 4


def inputs(time: int, heads: int = H, batch: int = B) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(batch, time, heads, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def episodes(memory: EpisodicMemory, q: Tensor, k: Tensor, v: Tensor, surprise: Tensor | None = None) -> Tensor:
    """The number of each token's episode, (B, T)."""
    controls = {} if surprise is None else {"surprise": surprise[:, :, None].expand(-1, -1, H)}
    _, state = mn.run(memory, q, k, v, controls)
    return state["episode"].gather(1, state["slot"].argsort(1))


def starts(numbers: Tensor) -> list[int]:
    """Where a row's episodes begin."""
    return [t for t, (a, b) in enumerate(itertools.pairwise([0, *numbers.tolist()])) if a != b]


# HCAM: chunks found by their means, read in detail.

WIDTH, CHUNK = 8, 4


def hcam(chosen: int, keep: int | None = None) -> tuple[ChunkRecallLayer, nn.MultiheadAttention]:
    """The layer, and PyTorch's own multi-head attention with its projections."""
    layer = ChunkRecall(CHUNK, chosen, keep).build(WIDTH, H).double()
    detail = nn.MultiheadAttention(WIDTH, H, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        detail.in_proj_weight.copy_(torch.cat([layer.ask.weight[WIDTH:], layer.detail.weight]))
        detail.out_proj.weight.copy_(layer.out.weight)
    return layer, detail


def by_hand(layer: ChunkRecallLayer, detail: nn.MultiheadAttention, x: Tensor, chunks: Tensor, chosen: int) -> Tensor:
    """The paper's formula for one query x (width,) and chunks (M, C, width)."""
    place = torch.arange(CHUNK - 1, -1, -1, dtype=torch.float64)[:, None]
    angle = place / 10000.0 ** (2 * torch.arange(WIDTH // 2) / WIDTH)
    placed = chunks + torch.cat([angle.sin(), angle.cos()], -1)
    summary = layer.address(chunks.mean(1))
    match = summary @ (layer.ask.weight[:WIDTH] @ x) / math.sqrt(WIDTH)
    best = match.topk(chosen).indices
    weights = match[best].softmax(0)
    parts = [detail(x[None], placed[m], placed[m], need_weights=False)[0][0] for m in best]
    return (weights[:, None] * torch.stack(parts)).sum(0)


@pytest.mark.parametrize(("chosen", "chunks"), [(1, 1), (5, 5), (2, 5), (3, 4)])
def test_hcam_is_attention_within_chunks_that_attention_to_their_means_chose(chosen: int, chunks: int) -> None:
    """One chunk; all of them; the best few."""
    layer, detail = hcam(chosen)
    x = torch.randn(1, chunks * CHUNK + 2, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    past = x[0, : chunks * CHUNK].view(chunks, CHUNK, WIDTH)
    for t in (chunks * CHUNK, chunks * CHUNK + 1):
        assert_same(y[0, t], by_hand(layer, detail, x[0, t], past, chosen))


def test_hcam_reads_nothing_before_a_chunk_is_finished_and_all_there_is_while_chunks_are_few() -> None:
    layer, detail = hcam(3)
    x = torch.randn(1, 2 * CHUNK, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    assert not y[:, :CHUNK].any()
    for t in range(CHUNK, 2 * CHUNK):
        assert_same(y[0, t], by_hand(layer, detail, x[0, t], x[:, :CHUNK], 1))


def test_hcam_stores_without_a_gradient_and_still_learns_to_address() -> None:
    layer, _ = hcam(2)
    x = torch.randn(1, 4 * CHUNK, WIDTH, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    gradient, *others = torch.autograd.grad(y[:, -1].square().sum(), [x, *layer.parameters()])
    assert not gradient[:, :-1].any() and gradient[:, -1].all()
    assert all(other.any() for other in others)
    rows = torch.autograd.grad(layer(x)[0][:, -1].square().sum(), layer.ask.weight)[0].any(1)
    assert rows[:WIDTH].any() and rows[WIDTH:].any()  # which chunks, and what within them
    rows = torch.autograd.grad(layer(x)[0][:, -1].square().sum(), layer.detail.weight)[0].any(1)
    assert rows[:WIDTH].any() and rows[WIDTH:].any()  # keys and values


def test_hcam_has_no_order_of_chunks_and_one_of_items_by_their_positions_alone() -> None:
    layer, _ = hcam(2)
    x = torch.randn(1, 5 * CHUNK + 1, WIDTH, dtype=torch.float64)
    last = layer(x)[0][:, -1]
    order = [2, 0, 4, 1, 3]
    shuffled = torch.cat([*(x[:, m * CHUNK : (m + 1) * CHUNK] for m in order), x[:, -1:]], 1)
    assert_same(layer(shuffled)[0][:, -1], last)
    items = torch.cat([*(x[:, m * CHUNK + torch.tensor([1, 3, 0, 2])] for m in range(5)), x[:, -1:]], 1)
    assert float((layer(items)[0][:, -1] - last).detach().abs().max()) > 1e-3
    layer.detail.register_forward_pre_hook(lambda module, given: (given[0] - placed(given[0]),))
    assert_same(layer(items)[0][:, -1], layer(x)[0][:, -1])


def placed(x: Tensor) -> Tensor:
    """The positions that the layer adds to the items of whole chunks from the stream's start."""
    return sinusoids(CHUNK - 1 - torch.arange(x.shape[1]) % CHUNK, WIDTH)


@pytest.mark.parametrize("time", [3, 4, 11, 12, 30])
def test_hcam_makes_a_chunk_of_every_c_items_and_keeps_the_last_ones(time: int) -> None:
    layer, detail = hcam(2, keep=3)
    x = torch.randn(1, time + 1, WIDTH, dtype=torch.float64)
    y, state = layer(x)
    inner = state.child("memory")
    assert int(inner["episode"].max()) == time // CHUNK + 1  # the one that is open is counted
    past = x[0, : time // CHUNK * CHUNK].view(-1, CHUNK, WIDTH)[-3:]
    if len(past):
        assert_same(y[0, -1], by_hand(layer, detail, x[0, -1], past, min(2, len(past))))
    assert inner["keys"].shape[1] == layer.init_state(1).child("memory")["keys"].shape[1]


@pytest.mark.parametrize("chosen", [1, 3, 6])
def test_with_oracle_summaries_hcam_is_full_attention_over_the_chunks_it_chose(chosen: int) -> None:
    """With the logarithm of the sum of a chunk's exponentials for its match, the two softmaxes are one. (Addresses are
    the unit vectors of their chunks, so that what asks is the list of matches.)"""
    chunks, time = 6, 6 * CHUNK + 1
    q, k, v = (torch.randn(1, time, 1, 8, dtype=torch.float64) for _ in range(3))
    scores = (k[0, :-1, 0] @ q[0, -1, 0] / math.sqrt(8)).view(chunks, CHUNK)
    match = scores.logsumexp(-1)
    address = torch.zeros(1, time, 1, 8, dtype=torch.float64)
    address[0, torch.arange(time - 1), 0, torch.arange(time - 1) // CHUNK] = math.sqrt(8)
    asking = torch.zeros(1, time, 1, 8, dtype=torch.float64)
    asking[0, -1, 0, :chunks] = match
    memory = EpisodicMemory(Every(CHUNK), Address(), Recall(chosen), together=False)
    out, _ = mn.run(memory, q, k, v, {"address": address, "asking": asking})
    best = match.topk(chosen).indices
    weights = scores[best].flatten().softmax(0)
    assert_same(out[0, -1, 0], weights @ v[0, :-1, 0].view(chunks, CHUNK, 8)[best].flatten(0, 1))


# EM-LLM: events that begin with surprise.


@pytest.mark.parametrize("of", ["control", "keys"])
@pytest.mark.parametrize(("threshold", "size"), [(-1e9, 3), (1e9, 7)])
def test_without_a_threshold_events_are_shortest_and_without_surprise_longest(
    of: str, threshold: float, size: int
) -> None:
    memory = EpisodicMemory(Surprise(threshold, span=5, shortest=3, longest=7, of=of))  # pyright: ignore
    surprise = torch.rand(B, 40, dtype=torch.float64) if of == "control" else None
    found = starts(episodes(memory, *inputs(40), surprise=surprise)[0])
    assert found == list(range(0, 40, size))


@pytest.mark.parametrize("value", [0.1, 3.7])
@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_constant_surprise_makes_no_boundary(value: float, threshold: float) -> None:
    memory = EpisodicMemory(Surprise(threshold, span=7, shortest=1, longest=100, of="control"))
    surprise = torch.full((B, 30), value, dtype=torch.float64)
    assert starts(episodes(memory, *inputs(30), surprise=surprise)[0]) == [0]


def test_an_event_begins_where_surprise_exceeds_the_mean_by_some_deviations() -> None:
    span, threshold, time = 6, 0.7, 60
    surprise = torch.rand(B, time, dtype=torch.float64)
    memory = EpisodicMemory(Surprise(threshold, span=span, shortest=1, longest=1000, of="control"), sinks=2)
    numbers = episodes(memory, *inputs(time), surprise=surprise)
    for row in range(B):
        expected = [2]
        for t in range(3, time):
            last = surprise[row, max(1, t - span) : t]  # nothing is known of the first token
            if surprise[row, t] > last.mean() + threshold * last.std(correction=0):
                expected.append(t)
        assert len(expected) > 8 and starts(numbers[row]) == expected


def test_surprise_of_keys_is_their_turn() -> None:
    """A key that turns away begins an event, one that only grows does not."""
    memory = EpisodicMemory(Surprise(1.0, span=8, shortest=1, longest=1000))
    q, k, v = inputs(24)
    k = k[:, :1] * (1 + torch.rand(B, 24, 1, 1, dtype=torch.float64))
    k[:, 10:] = -k[:, 10:]
    assert starts(episodes(memory, q, k, v)[0]) == [0, 10]


def test_short_events_are_joined_to_the_next_and_long_ones_are_cut() -> None:
    surprise = torch.zeros(1, 40, dtype=torch.float64)
    surprise[0, [5, 7, 12, 30]] = 1.0
    memory = EpisodicMemory(Surprise(1.0, span=4, shortest=4, longest=10, of="control"))
    q, k, v = inputs(40, batch=1)
    assert starts(episodes(memory, q, k, v, surprise=surprise)[0]) == [0, 5, 12, 22, 30]


def block_diagonal(sizes: list[int]) -> Tensor:
    """Keys of which those within a block are alike, and those of two blocks at right angles."""
    keys = torch.zeros(sum(sizes), len(sizes), dtype=torch.float64)
    keys[torch.arange(sum(sizes)), torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))] = 1.0
    return keys


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
def test_a_late_boundary_moves_to_the_edge_of_its_block(metric: str) -> None:
    for late in range(5, 9):
        assert refine_boundaries(block_diagonal([5, 6]), [late], metric) == [5]  # pyright: ignore
    assert refine_boundaries(block_diagonal([5, 6, 4]), [7, 12], metric) == [5, 11]  # pyright: ignore
    assert refine_boundaries(block_diagonal([5, 6]), [3], metric) == [3]  # pyright: ignore  # never to the right


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
def test_the_memory_moves_its_boundaries_to_the_edges_of_blocks(metric: str) -> None:
    """Once the next one is known; until then it stands where it was found."""
    keys = block_diagonal([6, 7, 5])[None, :, None]
    surprise = torch.zeros(1, 18, 1, dtype=torch.float64)
    surprise[0, [8, 14]] = 1.0
    memory = EpisodicMemory(Surprise(1.0, span=4, shortest=2, longest=10, of="control", refine=metric))  # pyright: ignore
    for time, expected in ((14, [0, 8]), (18, [0, 6, 14])):
        part, controls = keys[:, :time], {"surprise": surprise[:, :time]}
        assert starts(mn.run(memory, part, part, part, controls)[1]["episode"][0]) == expected


@pytest.mark.parametrize("metric", ["modularity", "conductance"])
def test_refined_boundaries_are_as_many_in_order_not_later_and_better(metric: str) -> None:
    quality = {"modularity": modularity, "conductance": lambda a: -conductance(a)}[metric]
    for _ in range(20):
        keys = torch.rand(40, 6, dtype=torch.float64)
        found = sorted({int(t) for t in torch.randint(1, 40, (6,))})
        refined = refine_boundaries(keys, found, metric)  # pyright: ignore
        assert len(refined) == len(found) and sorted(set(refined)) == refined
        assert all(0 < new <= old for new, old in zip(refined, found, strict=True))
        for i, (new, old) in enumerate(zip(refined, found, strict=True)):
            begin, end = [0, *refined][i], [*found[1:], 40][i]
            span = keys[begin:end]
            of_split = quality(span @ span.T)
            assert of_split[new - begin - 1] >= of_split[old - begin - 1] - 1e-6
            assert of_split[new - begin - 1] >= of_split[: old - begin].max() - 1e-6


def test_modularity_and_conductance_are_their_sums() -> None:
    keys = torch.rand(7, 3, dtype=torch.float64)
    a = keys @ keys.T
    degree, total = a.sum(1), a.sum()
    for cut in range(1, 7):
        side = torch.arange(7) < cut
        same = side[:, None] == side
        assert_same(modularity(a)[cut - 1], ((a - degree[:, None] * degree / total) * same).sum() / total)
        within = min(a[side][:, side].sum(), a[~side][:, ~side].sum())
        assert_same(conductance(a)[cut - 1], a[side][:, ~side].sum() / within)


# Retrieval.

EVENTS = Surprise(0.3, span=8, shortest=2, longest=6)


def read_weights(memory: EpisodicMemory, time: int) -> tuple[Tensor, mn.State]:
    """How much every token read of every other, (T, T): the values are unit vectors."""
    q, k, _ = inputs(time, batch=1)
    v = torch.eye(time, dtype=torch.float64)[None, :, None].repeat(1, 1, H, 1)
    out, state = mn.run(memory, q, k, v)
    return out[0, :, 0], state


@pytest.mark.parametrize("unit", ["tokens", "episodes"])
def test_what_is_read_stays_within_its_budget(unit: str) -> None:
    """Sinks, the window, similar events up to the closest to the budget, and never more neighbours than asked for."""
    similar, contiguous = (12, 5) if unit == "tokens" else (3, 2)
    memory = EpisodicMemory(EVENTS, MeanKey(), Recall(similar, contiguous, unit), window=4, sinks=2)  # pyright: ignore
    plain = memory.replace(recall=Recall(similar, 0, unit))  # pyright: ignore
    torch.manual_seed(5)
    both, state = read_weights(memory, 90)
    torch.manual_seed(5)
    alone, _ = read_weights(plain, 90)
    number = state["episode"][0]
    beside = 0
    for t in range(60, 90):
        own = int(number[t])
        cut = int(number[t - 3])
        near = {j for j in range(t + 1) if t - j < 4 or int(number[j]) >= min(own, cut)} | {0, 1}
        found, more = ({j for j in range(t + 1) if w[t, j] > 0} - near for w in (alone, both))
        assert found <= more and all(both[t, j] > 0 for j in near)
        if unit == "tokens":
            assert abs(len(found) - 12) <= 3, "one event could be 6 tokens"
            assert len(more - found) <= 5
        else:
            assert len({int(number[j]) for j in found}) == 3 and len({int(number[j]) for j in more - found}) <= 2
        beside += len(more - found)
    assert beside > 0


def test_neighbours_have_three_tenths_of_the_budget_at_most() -> None:
    """By default, as in the paper's settings."""
    memory = mn.zoo.em_llm().memory
    assert isinstance(memory, EpisodicMemory) and memory.recall.unit == "tokens"
    share = memory.recall.contiguous / (memory.recall.similar + memory.recall.contiguous)
    assert 0.29 < share <= 0.3


def test_neighbours_in_time_of_what_was_found_are_read_and_stay_for_a_while() -> None:
    """A query that matches one event also reads the event before and after it; the next one, which matches another
    one, reads those too, until newer ones take their place."""
    q, k, v = inputs(41, batch=1, heads=1)
    k, q = torch.zeros_like(k), torch.zeros_like(q)
    k[0, 8:12, 0, 0] = k[0, 20:24, 0, 1] = 1.0  # events 3 and 6 of Every(4)
    q[0, 38, 0, 0] = q[0, 39, 0, 1] = q[0, 40, 0, 1] = 1.0
    v = torch.eye(41, dtype=torch.float64)[None, :, None]
    for contiguous, second in ((2, {5, 6, 7}), (4, {2, 4, 5, 6, 7})):
        memory = EpisodicMemory(Every(4), MeanKey(), Recall(1, contiguous))
        _, state = mn.run(memory, q[:, :38], k[:, :38], v[:, :38])
        state = state.successor(**state.entries | {"queued": torch.zeros(1, 38, dtype=torch.int64)})
        out, _ = mn.run(memory, q[:, 38:], k[:, 38:], v[:, 38:], state=state)
        for t, events in enumerate(({2, 3, 4}, second, second)):
            assert {j // 4 + 1 for j in range(41) if out[0, t, 0, j] > 0} == events


@pytest.mark.parametrize("boundary", [EVENTS, Every(4), EVENTS.replace(refine="modularity")], ids=str)
@pytest.mark.parametrize("summary", [MeanKey(), Representatives(2)], ids=str)
def test_within_the_window_it_is_full_attention(boundary: Every | Surprise, summary: MeanKey) -> None:
    q, k, v = inputs(20)
    memory = EpisodicMemory(boundary, summary, Recall(2), window=20, sinks=3, rotary=100.0)
    full, _ = mn.run(mn.KVMemory(read=mn.Softmax(rotary=100.0)), q, k, v)
    assert_same(mn.run(memory, q, k, v)[0], full)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rotary", [None, 100.0])
def test_within_the_window_no_bit_differs_from_full_attention(rotary: float | None, dtype: torch.dtype) -> None:
    """Token by token, where both compute the same sums in the same order."""
    q, k, v = (x.to(dtype) for x in inputs(20))
    memory = EpisodicMemory(EVENTS, Representatives(2), Recall(2), window=20, sinks=3, rotary=rotary)
    full, _ = mn.run(mn.KVMemory(read=mn.Softmax(rotary=rotary)), q, k, v, plan="loop")
    assert torch.equal(mn.run(memory, q, k, v, plan="loop")[0], full)


@pytest.mark.parametrize("boundary", [EVENTS, Every(4), EVENTS.replace(refine="conductance")], ids=str)
@pytest.mark.parametrize("window", [0, 1, 6])
def test_where_everything_is_found_only_the_distances_differ(boundary: Every | Surprise, window: int) -> None:
    """All events, the sinks and the window are all there is, in one softmax: without positions, full attention. With no
    window, the events that are not finished are missing."""
    q, k, v = inputs(50)
    memory = EpisodicMemory(boundary, MeanKey(), Recall(50), window=window, sinks=2)
    out, state = mn.run(memory, q, k, v)
    if window:
        assert_same(out, mn.run(mn.KVMemory(), q, k, v)[0])
        return
    for row in range(B):
        number = state["episode"][row]
        if boundary.refine is None:
            seen = (number < number[:, None]) & (torch.arange(50) <= torch.arange(50)[:, None])
            scores = torch.einsum("thk,shk->hts", q[row], k[row]) / 2
            weights = scores[:, 2:].masked_fill(~seen[2:], -torch.inf).softmax(-1)
            assert_same(out[row, 2:], torch.einsum("hts,shv->thv", weights, v[row]))


@pytest.mark.parametrize("summary", [MeanKey(), Representatives(2)], ids=str)
def test_heads_in_groups_are_heads_with_equal_keys(summary: MeanKey) -> None:
    q, (_, k, v) = torch.randn(B, 50, 3 * H, K, dtype=torch.float64), inputs(50)
    memory = EpisodicMemory(EVENTS, summary, Recall(6, 4, "tokens"), window=6, sinks=2, rotary=100.0)
    out, state = mn.run(memory, q, k, v)
    expected, whole = mn.run(memory, q, k.repeat_interleave(3, 2), v.repeat_interleave(3, 2))
    assert_same(out, expected)
    assert torch.equal(state["episode"], whole["episode"]) and state["keys"].shape[2] == H


def test_a_window_that_cuts_an_event_reaches_back_to_its_beginning() -> None:
    memory = EpisodicMemory(Every(5), MeanKey(), Recall(1), window=3)
    weights, _ = read_weights(memory, 30)
    for t in range(10, 30):
        begin = (t - 2) // 5 * 5
        assert (weights[t, begin : t + 1] > 0).all()
        assert int((weights[t, :begin] > 0).sum()) == 5 and not weights[t, t + 1 :].any()


def test_blocks_with_representatives_are_infllm() -> None:
    """Blocks of 4 by the two keys that received most, the best two blocks, the sinks and the window, all that is not in
    the window read at one distance: the last token's answer, written out."""
    time, window, sinks, base = 40, 8, 2, 100.0
    q, k, v = inputs(time, batch=1)
    memory = EpisodicMemory(Every(4), Representatives(2), Recall(2), window=window, sinks=sinks, rotary=base)
    out, state = mn.run(memory, q, k, v)

    def score(t: int, j: int, distance: int) -> Tensor:
        angle = distance * base ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
        one, two = q[0, t, :, : K // 2], q[0, t, :, K // 2 :]
        turned = torch.cat([one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()], -1)
        return (turned * k[0, j]).sum(-1)

    received = torch.zeros(time, dtype=torch.float64)
    for t in range(time):
        inside = range(max(0, t - window + 1), t + 1)
        weights = torch.stack([score(t, j, t - j) / 2 for j in inside]).softmax(0)
        received[inside.start : t + 1] += weights.sum(1)
    assert_same(state["received"][0], received)
    last = time - 1
    blocks = [range(begin, begin + 4) for begin in range(sinks, last - window - 2, 4)]
    assert blocks[-1][-1] == 29, "block 30 to 33 is cut by the window that begins at 32"
    matches = []
    for block in blocks:
        best = sorted(block, key=lambda j: -received[j])[:2]
        matches.append(float(sum(score(last, j, window).sum() for j in best)) / 2)
    chosen = sorted(range(len(blocks)), key=lambda i: -matches[i])[:2]
    far = [*range(sinks), *(j for i in chosen for j in blocks[i])]
    logits = [score(last, j, window) / 2 for j in far] + [score(last, j, last - j) / 2 for j in range(30, time)]
    weights = torch.stack(logits).softmax(0)
    assert_same(out[0, -1], (weights[..., None] * v[0, [*far, *range(30, time)]]).sum(0))


def test_representatives_are_the_tokens_that_received_most() -> None:
    """Wherever they are stored; of equals the older, and all of an episode with fewer."""
    slot = torch.tensor([[6, 1, 2, 5, 3, 4, 7, 0]])
    episode = torch.tensor([[2, 1, 1, 1, 1, 1, 3, 0]])
    size = torch.tensor([[1, 5, 5, 5, 5, 5, 1, 0]], dtype=torch.float64)
    received = torch.tensor([[9.0, 0.5, 0.7, 0.7, 0.2, 0.7, 0.0, 5.0]], dtype=torch.float64)
    for number, among in ((1, [2]), (2, [2, 5]), (3, [2, 3, 5]), (4, [1, 2, 3, 5]), (9, [1, 2, 3, 4, 5])):
        weights = Representatives(number).weights(episode, size, slot, received)[0]
        expected = torch.zeros(8, dtype=torch.float64)
        expected[among], expected[[0, 6]] = 1 / len(among), 1.0
        assert_same(weights[:7], expected[:7])


def test_a_needle_far_beyond_the_window_is_found() -> None:
    """By the key that was written 400 tokens ago, of which the window holds 16; a sliding window has lost it."""
    torch.manual_seed(0)
    time, at = 420, 17
    k = torch.nn.functional.normalize(torch.randn(1, time, 1, 128, dtype=torch.float64), dim=-1)
    q, v = torch.zeros_like(k), torch.randn(1, time, 1, 128, dtype=torch.float64)
    q[:, -1] = k[:, at]
    for boundary in (Every(8), Surprise(1.0, shortest=4, longest=12)):
        memory = EpisodicMemory(boundary, MeanKey(), Recall(4), window=16, sinks=2, scale=60.0)
        out, _ = mn.run(memory, q, k, v)
        assert float((out[:, -1] - v[:, at]).abs().max()) < 1e-3
    lost, _ = mn.run(mn.KVMemory(retain=mn.Window(16, sinks=2), read=mn.Softmax(scale=60.0)), q, k, v)
    assert float((lost[:, -1] - v[:, at]).abs().max()) > 0.3


def test_events_hold_together_what_fixed_blocks_cut() -> None:
    """Stretches of 5 to 11 tokens about one thing each, 60 windows long: asked for one of them, events read most of it,
    and blocks of as many tokens as an event has on average less, from the same budget."""
    lengths = torch.randint(5, 12, (60,)).tolist()
    things = torch.nn.functional.normalize(torch.randn(60, 48, dtype=torch.float64), dim=-1)
    about = torch.arange(60).repeat_interleave(torch.tensor(lengths))
    time = len(about)
    k = (things[about] + 0.04 * torch.randn(time, 48, dtype=torch.float64))[None, :, None]
    asked = torch.arange(5, 45)
    shares = {}
    for boundary in (Every(8), Surprise(2.0, span=24, shortest=3, longest=16)):
        memory = EpisodicMemory(boundary, MeanKey(), Recall(8, unit="tokens"), window=8)
        v = torch.eye(time, dtype=torch.float64)[None, :, None]
        _, state = mn.run(memory, k, k, v)
        read = memory.read(state, things[asked][None, :, None])[0, :, 0] > 0
        of_thing = about == asked[:, None]
        shares[type(boundary)] = float(((read & of_thing).sum(1) / of_thing.sum(1)).mean())
    assert shares[Surprise] > 0.9 and shares[Every] < shares[Surprise] - 0.1


def test_what_a_query_reads_does_not_grow_with_the_stream() -> None:
    memory = EpisodicMemory(EVENTS, MeanKey(), Recall(2), window=4, sinks=1)
    for time in (60, 200):
        weights, _ = read_weights(memory, time)
        assert int((weights[-1] > 0).sum()) <= 1 + memory.reach + memory.recalled


def test_reading_asks_from_the_newest_token_and_notes_nothing() -> None:
    memory = EpisodicMemory(Every(3), Representatives(1), Recall(1, 1), window=4, rotary=100.0)
    q, k, v = inputs(20)
    whole, _ = mn.run(memory, q, k, v)
    _, state = mn.run(memory, q[:, :19], k[:, :19], v[:, :19])
    state = memory.write(state, k[:, 19], v[:, 19])
    held = {name: x.clone() for name, x in state.tensors()}
    assert_same(memory.read(state, q[:, 19]), whole[:, 19])
    assert all(torch.equal(x, held[name]) for name, x in state.tensors())
    assert not memory.read(memory.init(B, H, K, K, dtype=torch.float64), q[:, 0]).any()


# A whole model, without training.


def em_llm(of: mn.LanguageModel, **options: object) -> mn.LanguageModel:
    """The same weights, read in events."""
    spec = of.spec.replace(pattern=(mn.zoo.em_llm(**options),))  # pyright: ignore
    made = mn.LanguageModel(spec).double()
    made.load_state_dict(of.state_dict())
    return made


def transformer() -> mn.LanguageModel:
    made = mn.LanguageModel(mn.zoo.model("transformer", width=16, depth=2, heads=2, vocabulary=9)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("given", [False, True])
def test_a_trained_transformer_reads_in_events_and_is_itself_within_its_window(given: bool) -> None:
    made, tokens = transformer(), torch.randint(0, 9, (B, 40))
    expected, _ = made(tokens)
    for window, same in ((40, True), (12, False)):
        model = em_llm(made, window=window, sinks=1, similar=4, contiguous=2, given=given)
        logits, _ = read_with_surprise(model, tokens, block=16) if given else model(tokens)
        assert_same(logits[:, :window], expected[:, :window], 1e-10)
        assert same or float((logits - expected).detach().abs().max()) > 1e-3


def test_surprise_is_what_the_model_did_not_expect() -> None:
    made, tokens = transformer(), torch.randint(0, 9, (B, 40))
    logits, _ = made(tokens)
    expected = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    model = em_llm(made, window=40, given=True)
    whole, last = read_with_surprise(model, tokens, block=100)
    assert_same(last.child("1").child("memory")["surprise"][:, 1:], expected, 1e-10)
    for block in (1, 7):  # in pieces, the logits handed on
        one, state = read_with_surprise(model, tokens[:, :17], block=block)
        two, state = read_with_surprise(model, tokens[:, 17:], state, before=one[:, -1], block=block)
        assert_same(torch.cat([one, two], 1), whole, 1e-10)
        for (name, found), (_, wanted) in zip(state.tensors(), last.tensors(), strict=True):
            assert found.dtype == wanted.dtype and float((found - wanted).detach().abs().max()) < 1e-9, name


def test_surprise_that_was_not_given_is_missed() -> None:
    model = em_llm(transformer(), given=True)
    with pytest.raises(InvalidValue, match=r"takes 'surprise' from outside, one number for each of .* = \(1, 5\)"):
        model(torch.randint(0, 9, (1, 5)))
    with given(surprise=torch.rand(1, 4)), pytest.raises(InvalidValue, match=r"given was numbers of shape \(1, 4\)"):
        model(torch.randint(0, 9, (1, 5)))
    with pytest.raises(InvalidValue, match=r"read_with_surprise\(block=\) is at least 1; got 0"):
        read_with_surprise(model, torch.randint(0, 9, (1, 5)), block=0)


SHARED = [
    EpisodicMemory(Every(3), MeanKey(), Recall(2), together=False),
    EpisodicMemory(Every(3), Address(), Recall(2), sinks=1),
    EpisodicMemory(
        Surprise(0.2, span=5, shortest=2, longest=4), Representatives(2), Recall(4, 3, "tokens"), window=3, rotary=100.0
    ),
]


@pytest.mark.parametrize("memory", SHARED, ids=str)
@pytest.mark.parametrize("few", [0, 1000])
def test_grouped_heads_are_repeated_heads(memory: EpisodicMemory, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, what is found and what attention is received: as if each head of keys were there three times."""
    monkeypatch.setattr("mnemos.memory.episodic.FEW", few)
    (q, _, _), (asking, _, _), (address, k, v) = inputs(40, 3 * H), inputs(40, 3 * H), inputs(40)
    own = {"address": address, "asking": asking} if memory.summary.own else {}
    more, k_more, v_more = (x.repeat_interleave(3, 2) for x in (address, k, v))
    out, state = mn.run(memory, q, k, v, own)
    expected, repeated = mn.run(memory, q, k_more, v_more, own | {"address": more} if own else {})
    assert_same(out, expected)
    assert state["keys"].shape[2] == H
    for name in set(state.entries) - {"keys", "values", "address"}:
        assert_same(state[name].double(), repeated[name].double(), 1e-10)
    asked = {"asking": asking[:, :5]} if own else {}
    assert_same(memory.read(state, q[:, :5], asked), memory.read(repeated, q[:, :5], asked))


def test_chunks_of_grouped_heads_are_chunks_of_repeated_heads() -> None:
    one = mn.zoo.hcam(chunk=4, chosen=2, kv_heads=2).build(24, 6).double()
    other = mn.zoo.hcam(chunk=4, chosen=2).build(24, 6).double()

    def repeated(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (2, 4)).repeat_interleave(3, 0).flatten(0, 1)

    with torch.no_grad():
        other.load_state_dict(
            one.state_dict()
            | {
                "address.weight": repeated(one.address.weight),
                "detail.weight": torch.cat([repeated(x) for x in one.detail.weight.chunk(2)]),
            }
        )
        x = torch.randn(B, 30, 24, dtype=torch.float64)
        assert_same(one(x)[0], other(x)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChunkRecall(kv_heads=0), r"ChunkRecall\(kv_heads=\) is at least 1; got 0"),
        (lambda: ChunkRecall(kv_heads=3).build(8, 2), "heads must be a multiple of kv_heads; got 2 and 3"),
        (lambda: mn.run(EpisodicMemory(), *inputs(3, 3)[:1], *inputs(3)[1:]), "a multiple of k's heads"),
        (lambda: Every(0), r"Every\(size=\) is a number of tokens of at least 1; got 0"),
        (lambda: Surprise(shortest=5, longest=4), r"Surprise\(longest=\) must be at least shortest=5; got 4"),
        (lambda: Surprise(span=0), r"Surprise\(span=\) is a number of tokens of at least 1; got 0"),
        (lambda: Surprise(of="loss"), r'Surprise\(of=\) is "control" or "keys"; got \'loss\''),  # pyright: ignore
        (lambda: Surprise(refine="cut"), r'Surprise\(refine=\) is "modularity", "conductance"'),  # pyright: ignore
        (lambda: Representatives(0), r"Representatives\(number=\) is at least 1; got 0"),
        (lambda: Recall(0), r"Recall\(similar=\) is at least 1; got 0"),
        (lambda: Recall(1, -1), r"Recall\(contiguous=\) is at least 0; got -1"),
        (lambda: Recall(1, unit="words"), r'Recall\(unit=\) is "episodes" or "tokens"'),  # pyright: ignore
        (lambda: EpisodicMemory(together=False, window=4), "reads each episode apart, and neither window nor sinks"),
        (lambda: EpisodicMemory(rotary=100.0), r"rotary=\) gives positions to the window, and there is none"),
        (lambda: EpisodicMemory(summary=Representatives()), "goes by the attention received in the window, and there"),
        (lambda: EpisodicMemory(keep=0), r"EpisodicMemory\(keep=\) is at least 1; got 0"),
        (lambda: ChunkRecall(chosen=4, keep=3), r"keep=\) must hold the 4 chunks that are chosen; got 3"),
        (lambda: ChunkRecall(4).build(9, 3), "needs an even width, for sines and cosines; got 9"),
        (lambda: refine_boundaries(torch.rand(4), [1]), r"keys must be \(time, channels\)"),
        (lambda: refine_boundaries(torch.rand(4, 2), [2, 2]), "ascending token numbers of at least 1"),
        (lambda: refine_boundaries(torch.rand(4, 2), [4]), "must lie below 4"),
        (lambda: refine_boundaries(torch.rand(4, 2), [2], "cut"), 'metric is "modularity" or "conductance"'),  # pyright: ignore
        (lambda: EpisodicMemory(window=4, rotary=9.0).init(1, 1, 3, 3), "key_dim must be even; got 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make: object, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make()  # pyright: ignore


def test_parts_of_the_wrong_kind_are_said() -> None:
    with pytest.raises(InvalidType, match=r"boundary= takes a Boundary, for example Every\(32\)"):
        EpisodicMemory(32)  # pyright: ignore
    with pytest.raises(InvalidType, match="keys must be a floating point tensor"):
        refine_boundaries([1, 2], [1])  # pyright: ignore
