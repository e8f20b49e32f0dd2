"""What the working and long-term memories of PMI must satisfy (arXiv 2310.09297)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import DualMemory, DualMemoryLayer

B, T, D, H, S, G = 2, 7, 8, 2, 4, 3


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def a_layer(**options: Any) -> DualMemoryLayer:
    layer = DualMemory(**{"slots": S, "segments": G, "top": 3, "chunk": 4, **options}).build(D, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def memories(segments: int = G) -> tuple[Tensor, Tensor]:
    return randn(B, S, D), torch.rand(B, segments, S, D, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def norm(x: Tensor, by: Any) -> Tensor:
    """Layer norm of a vector."""
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-5) * by.weight + by.bias


def attended(layer: DualMemoryLayer, x: Tensor, y: Tensor, top: int) -> Tensor:
    """Att_top, a row of x (n, D) and a head after another, y (m, D)."""
    size, found = D // H, []
    for row in x:
        heads = []
        for h in range(H):
            of_head = slice(h * size, (h + 1) * size)
            q = (layer.query.weight @ row + layer.query.bias)[of_head]
            keys = torch.stack([(layer.key.weight @ z + layer.key.bias)[of_head] for z in y])
            values = torch.stack([(layer.value.weight @ z + layer.value.bias)[of_head] for z in y])
            weights = torch.exp(keys @ q)
            weights = weights / weights.sum()
            least = weights.sort(descending=True).values[min(top, len(y)) - 1]
            weights = torch.stack([w if w >= least else 0 * w for w in weights])
            heads.append(weights @ values)
        found.append(torch.cat(heads))
    return torch.stack(found)


def literally(layer: DualMemoryLayer, x: Tensor, slots: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's layer on one set x (T, D), a row after another."""
    top = layer.spec.top
    tokens = torch.stack([layer.enter.weight @ t + layer.enter.bias for t in x])
    found = attended(layer, slots, tokens, top)
    new_slots, candidates = [], []
    told = torch.stack([(layer.summary * t).relu() for t in tokens]).sum(0) / len(tokens)
    told = layer.input_gates.weight @ told + layer.input_gates.bias
    for s in range(len(slots)):
        r = norm(slots[s] + found[s], layer.attended_norm)
        once = (layer.mlp.weight @ r + layer.mlp.bias).relu()
        r = norm(r + (layer.mlp.weight @ once + layer.mlp.bias).relu(), layer.mlp_norm)
        gates = told + layer.memory_gates.weight @ torch.tanh(slots[s])
        new_slots.append(torch.sigmoid(gates[:D]) * torch.tanh(r) + torch.sigmoid(gates[D:] + 1) * slots[s])
        candidates.append(r)
    new_segments = torch.stack(
        [
            torch.stack(
                [norm(row + row.sum() * r, layer.long_norm) for row, r in zip(segment, candidates, strict=True)]
            )
            for segment in segments
        ]
    )
    kept = torch.stack(new_slots)
    mean = sum(new_segments, torch.zeros_like(kept)) / len(new_segments)
    present = attended(layer, tokens, kept, 10**6)
    past = attended(layer, tokens, mean, top)
    both = attended(layer, past, present, 10**6)
    return layer.spec.mix * present + (1 - layer.spec.mix) * both, kept, new_segments


def test_the_paper_s_layer() -> None:
    layer, x, (slots, segments) = a_layer(), randn(B, T, D), memories()
    found = layer.perceive(x, slots, segments)
    for b in range(B):
        for one, other in zip(found, literally(layer, x[b], slots[b], segments[b]), strict=True):
            assert_same(one[b], other, 1e-10)


def test_the_stream_is_a_chunk_after_another() -> None:
    """Each chunk reads what the chunks before it left; within it, every token is the last of a shorter chunk."""
    layer, x = a_layer(), randn(B, 11, D)
    y, state = layer(x)
    fresh = layer.init_state(B).child("memory")
    slots, segments = fresh["slots"], fresh["segments"]
    for start in (0, 4, 8):
        chunk = layer.enter(x[:, start : start + 4])
        for end in range(1, chunk.shape[1] + 1):
            assert_same(y[:, start + end - 1], layer.read(chunk[:, :end], slots, segments, None)[:, -1], 1e-10)
        if chunk.shape[1] == 4:
            slots, segments = layer.write(chunk, slots, segments)
    memory = state.child("memory")
    assert_same(memory["slots"], slots, 1e-10)
    assert_same(memory["segments"], segments, 1e-10)
    assert_same(state["open"][:, :3], layer.enter(x[:, 8:]))
    assert not state["open"][:, 3:].any()


def test_the_largest_weights_of_few_are_all() -> None:
    few, all_ = a_layer(top=T), a_layer(top=100)
    all_.load_state_dict(few.state_dict())
    x, (slots, segments) = randn(B, T, D), memories()
    for one, other in zip(few.perceive(x, slots, segments), all_.perceive(x, slots, segments), strict=True):
        assert torch.equal(one, other)
    fewer = a_layer(top=2)
    fewer.load_state_dict(few.state_dict())
    assert (
        float((fewer.perceive(x, slots, segments)[1] - few.perceive(x, slots, segments)[1]).detach().abs().max()) > 1e-6
    )


def test_the_other_weights_are_left_out_and_the_rest_stay_as_they_were() -> None:
    """With values of 1, an attention adds up its weights: less than 1 once some are left out."""
    layer, x, y = a_layer(), randn(B, 5, D), randn(B, T, D)
    with torch.no_grad():
        layer.value.weight.zero_()
        layer.value.bias.fill_(1)
    assert_same(layer._attend(x, y), torch.ones(B, 5, D, dtype=torch.float64))
    least = 3 / T  # what the three largest add up to at least
    total = layer._attend(x, y, 3).detach()
    assert bool((total < 1).all()) and bool((total > least).all())


def test_closed_gates_keep_the_working_memory() -> None:
    layer, x, (slots, segments) = a_layer(), randn(B, T, D), memories()
    with torch.no_grad():
        layer.input_gates.bias[:D] = -1e4
        layer.input_gates.bias[D:] = 1e4
    _, after, long = layer.perceive(x, slots, segments)
    assert torch.equal(after, slots)
    assert float((long - segments).detach().abs().max()) > 1e-3  # which takes what comes before the gates


def test_a_single_segment_is_its_own_mean() -> None:
    layer, x, (slots, segments) = a_layer(), randn(B, T, D), memories(1)
    five = segments.expand(-1, 5, -1, -1)
    assert_same(layer.read(x, slots, segments, None), layer.read(x, slots, five, None))
    own = layer._attend(x, segments[:, 0], 3)
    present = layer._attend(x, slots)
    assert_same(layer.read(x, slots, segments, None), 0.7 * present + 0.3 * layer._attend(own, present))


def test_without_its_share_the_long_term_memory_says_nothing() -> None:
    layer, x, (slots, segments) = a_layer(mix=1.0), randn(B, T, D), memories()
    assert torch.equal(layer.read(x, slots, segments, None), layer.read(x, slots, 5 * segments + 1, None))
    with_share = a_layer(mix=0.7)
    moved = with_share.read(x, slots, segments, None) - with_share.read(x, slots, 5 * segments + 1, None)
    assert float(moved.detach().abs().max()) > 1e-6


def test_the_long_term_memory_takes_rows_by_the_sum_of_the_old_ones() -> None:
    """Before the norm: L + (sum of L) R. A row whose numbers add up to zero only gets normalised; to a row of equal
    numbers a, whose mean the norm takes away, a D R is all that is left: the same for every a > 0, its negative for
    a < 0."""
    layer, x, (slots, segments) = a_layer(), randn(B, T, D), memories()
    balanced = segments - segments.mean(-1, keepdim=True)
    _, after = layer.write(x, slots, balanced)
    assert_same(after, layer.long_norm(balanced), 1e-10)
    with torch.no_grad():
        layer.long_norm.weight.fill_(1)
        layer.long_norm.bias.zero_()
    factors = torch.tensor([1e3, 1e4, -1e3], dtype=torch.float64)
    _, after = layer.write(x, slots, factors[:, None, None].expand_as(segments))
    assert float(after.detach().abs().max()) > 0.1
    assert_same(after[:, 0], after[:, 1], 1e-6)
    assert_same(after[:, 0], -after[:, 2], 1e-6)


def test_the_order_of_a_set_does_not_matter() -> None:
    layer, x, (slots, segments) = a_layer(), randn(B, T, D), memories()
    order = torch.randperm(T)
    y, after, long = layer.perceive(x, slots, segments)
    moved, same, also = layer.perceive(x[:, order], slots, segments)
    assert_same(moved, y[:, order])
    assert_same(same, after)
    assert_same(also, long)


def test_it_starts_as_an_identity_and_numbers_up_to_one() -> None:
    layer = DualMemory(slots=S, segments=G).build(D, H)
    memory = layer.init_state(2).child("memory")
    assert torch.equal(memory["slots"], torch.eye(S, D).expand(2, -1, -1))
    assert torch.equal(memory["segments"][0], memory["segments"][1])
    assert bool(((memory["segments"] >= 0) & (memory["segments"] < 1)).all())
    assert 0.35 < float(memory["segments"].mean()) < 0.65


def test_memories_stay_bounded() -> None:
    layer = a_layer()
    with torch.no_grad():
        _, state = layer(10 * randn(1, 400, D))
    memory = state.child("memory")
    assert float(memory["slots"].abs().max()) < 1e3 and float(memory["segments"].abs().max()) < 1e2
    assert state.nbytes == layer.init_state(1).nbytes
    assert "chunks of 4 tokens" in layer.explain(64)


def test_options_that_cannot_be() -> None:
    for given, message in (({"slots": 0}, "at least 1"), ({"top": 0}, "at least 1"), ({"mix": 1.5}, "lies in")):
        with pytest.raises(mn.MnemosError, match=message):
            DualMemory(**given)  # pyright: ignore[reportArgumentType]
