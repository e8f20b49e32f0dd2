"""Sparse distributed memory (Kanerva 1988) and attention (arXiv 2111.05498): circles of addresses, hard locations, and
how near the one is to the other."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import CircleIntersection, Patterns, SparseDistributed, attention_scale, circle_intersection


def signs(count: int, size: int, seed: int = 0) -> Tensor:
    return Patterns("sign").draw(count, size, size, torch.Generator().manual_seed(seed))[0]


def stored(memory: SparseDistributed, k: Tensor, v: Tensor) -> mn.State:
    state = memory.init(1, 1, k.shape[1], v.shape[1], dtype=torch.float64)
    return memory.write_all(state, k[None, :, None], v[None, :, None])


def asked(memory: SparseDistributed, state: mn.State, q: Tensor) -> Tensor:
    return memory.read(state, q[None, :, None])[0, :, 0]


@pytest.mark.parametrize(("bits", "radius"), [(1, 0), (5, 2), (6, 1), (6, 6), (7, 3)])
def test_intersections_by_counting_all_addresses(bits: int, radius: int) -> None:
    counts = circle_intersection(bits, radius)
    for d in range(bits + 1):
        other = [1] * d + [0] * (bits - d)
        both = [
            x
            for x in itertools.product((0, 1), repeat=bits)
            if sum(x) <= radius and sum(a != b for a, b in zip(x, other, strict=True)) <= radius
        ]
        assert counts[d] == len(both)


@pytest.mark.parametrize(("bits", "radius"), [(8, 2), (64, 5), (64, 11), (65, 15)])
def test_intersections_fall_in_stairs(bits: int, radius: int) -> None:
    """Distances 2j - 1 and 2j share alike, beyond two radii nothing, and at 0 the whole circle."""
    counts = circle_intersection(bits, radius)
    for j in range(1, bits // 2 + 1):
        assert counts[2 * j - 1] == counts[2 * j]
    assert not any(counts[2 * radius + 1 :]) and counts[2 * radius] > 0
    assert counts[0] == sum(math.comb(bits, k) for k in range(radius + 1))
    assert sorted(counts, reverse=True) == list(counts)


def test_figures_of_the_reference_sheet() -> None:
    assert circle_intersection(8, 2)[:6] == (37, 16, 16, 6, 6, 0)
    counts = circle_intersection(64, 11)
    for d, share in enumerate((1, 0.336, 0.336, 0.142, 0.142, 0.061, 0.061, 0.025)):
        assert counts[d] / counts[0] == pytest.approx(share, abs=6e-4)
    for radius, scale, fit in ((5, 32.9, 0.970), (11, 19.3, 0.965), (15, 13.8, 0.949)):
        found = attention_scale(64, radius)
        assert found[0] == pytest.approx(scale, abs=0.06) and found[1] == pytest.approx(fit, abs=6e-4)


def test_where_weights_matter_they_are_nearly_exponential() -> None:
    """R^2 > 0.98 where a weight is above a thousandth of the largest, but for the smallest circles, whose few stairs a
    line cannot follow. The fitted scale falls with the radius."""
    assert attention_scale(64, 15, 1e-3)[1] > 0.98
    assert attention_scale(64, 11, 1e-3)[1] > 0.98
    assert attention_scale(128, 45, 1e-3)[1] > 0.98
    scales = [attention_scale(64, radius)[0] for radius in range(3, 30)]
    assert all(one > other for one, other in itertools.pairwise(scales))


def test_attention_at_the_fitted_scale_answers_alike() -> None:
    """64 bits, 1024 patterns, queries with some bits turned round: the answers of both point the same way."""
    k = signs(1024, 64)
    q = Patterns("sign").cues(k[:100], 0.08, torch.Generator().manual_seed(1))
    scale, _ = attention_scale(64, 11, 1e-3)
    answers = []
    for read in (CircleIntersection(64, 11), mn.Softmax(scale=scale / 64)):
        memory = mn.KVMemory(read=read)
        state = memory.init(1, 1, 64, 64, dtype=torch.float64)
        state = memory.write_all(state, k[None, :, None], k[None, :, None])
        answers.append(memory.read(state, q[None, :, None])[0, :, 0])
    alike = torch.nn.functional.cosine_similarity(*answers)
    better = torch.nn.functional.cosine_similarity(answers[0], k[:100]) - 0.84
    assert float(alike.min()) > 0.97 and float(better.min()) > 0


def test_the_read_weighs_by_intersections() -> None:
    k, v, q = signs(30, 16), torch.randn(30, 3, dtype=torch.float64), signs(9, 16, seed=5)
    memory = mn.KVMemory(read=CircleIntersection(16, 6))
    state = memory.init(1, 1, 16, 3, dtype=torch.float64)
    state = memory.write_all(state, k[None, :, None], v[None, :, None])
    found = memory.read(state, 7 * q[None, :, None])[0, :, 0]
    counts = circle_intersection(16, 6)
    for row, answer in zip(q, found, strict=True):
        weights = torch.tensor([counts[int((row != key).sum())] for key in k], dtype=torch.float64)
        assert float((weights @ v / weights.sum() - answer).abs().max()) < 1e-9
    far = mn.KVMemory(read=CircleIntersection(16, 1))
    state = far.init(1, 1, 16, 3, dtype=torch.float64)
    state = far.write_all(state, k[None, :1, None], v[None, :1, None])
    assert not far.read(state, -k[None, :1, None]).any()


def test_hard_locations_weigh_by_intersections_on_average() -> None:
    """20 000 random locations of 16 bits: the values' weights within sampling error, 4 standard deviations."""
    memory = SparseDistributed(20000, 5, "sum")
    counts = circle_intersection(16, 5)
    q = signs(1, 16)
    k = q.repeat(17, 1)
    for d in range(17):
        k[d, :d] *= -1
    found = asked(memory, stored(memory, k, torch.eye(17, dtype=torch.float64)), q)[0]
    for d, number in enumerate(found.tolist()):
        share = counts[d] / 2**16
        assert abs(number / 20000 - share) <= 4 * math.sqrt(share * (1 - share) / 20000)
    assert found[0] > 1000


def test_every_address_gives_the_intersections_exactly() -> None:
    memory = SparseDistributed(None, 3, "sum")
    k, v, q = signs(20, 8), torch.randn(20, 3, dtype=torch.float64), signs(6, 8, seed=3)
    found = asked(memory, stored(memory, k, v), q)
    counts = circle_intersection(8, 3)
    for row, answer in zip(q, found, strict=True):
        expected = sum(counts[int((row != key).sum())] * value for key, value in zip(k, v, strict=True))
        assert float((expected - answer).abs().max()) < 1e-10


def test_radius_zero_at_every_address_is_a_table() -> None:
    memory = SparseDistributed(None, 0, "sum")
    k = memory.addresses(6).double() * 2 - 1
    assert torch.equal(k.unique(dim=0), k[k.unique(dim=0, return_inverse=True)[1].argsort()]) and len(k) == 64
    v = torch.randn(30, 5, dtype=torch.float64)
    state = stored(memory, k[:30], v)
    assert torch.equal(asked(memory, state, k[:30]), v) and not asked(memory, state, k[30:]).any()


def test_a_circle_around_everything_answers_the_majority() -> None:
    memory = SparseDistributed(50, 12)
    k, v = signs(15, 12), signs(15, 7, seed=2)
    found = asked(memory, stored(memory, k, v), signs(4, 12, seed=3))
    assert torch.equal(found, v.sum(0).sign().expand(4, -1))


def test_taking_back_leaves_no_trace() -> None:
    memory = SparseDistributed(300, 10)
    k, v = signs(12, 32), signs(12, 9, seed=2)
    before = stored(memory, k[:11], v[:11])
    after = memory.write(before, k[None, 11, None], v[None, 11, None])
    assert not torch.equal(after["matrix"], before["matrix"])
    back = memory.write(after, k[None, 11, None], -v[None, 11, None])
    assert torch.equal(back["matrix"], before["matrix"])


def test_noisy_keys_come_back_clean() -> None:
    """Kanerva's use: a pattern is its own value, and what is read is asked again."""
    memory = SparseDistributed(2000, 22)
    k = signs(20, 64)
    state = stored(memory, k, k)
    cues = Patterns("sign").cues(k, 0.1, torch.Generator().manual_seed(1))
    once = asked(memory, state, cues)
    assert float((once == k).double().mean()) > float((cues == k).double().mean()) + 0.05
    again = asked(memory, state, asked(memory, state, once))
    assert float((again == k).all(1).double().mean()) >= 0.9


def test_addresses_are_balanced_independent_and_of_their_seed() -> None:
    memory = SparseDistributed(4000, 10)
    bits = memory.addresses(64).double()
    assert abs(float(bits.mean()) - 0.5) < 0.005
    turned = 2 * bits - 1
    by_bit, by_location = (turned.T @ turned / 4000).fill_diagonal_(0), turned[:200] @ turned[:200].T / 64
    assert float(by_bit.abs().max()) < 5 / math.sqrt(4000)
    assert float(by_location.fill_diagonal_(0).abs().max()) < 6 / math.sqrt(64)
    assert float(by_location.square().mean()) == pytest.approx(1 / 64, rel=0.1)
    other = SparseDistributed(4000, 10, seed=1).addresses(64).double()
    assert abs(float((bits == other).double().mean()) - 0.5) < 0.005
    assert torch.equal(SparseDistributed(4000, 3).addresses(64).double(), bits)


def test_what_cannot_be() -> None:
    for make, message in (
        (lambda: SparseDistributed(0), r"SparseDistributed\(locations=\) is at least 1, or None for every address; "),
        (lambda: SparseDistributed(radius=-1), r"SparseDistributed\(radius=\) is a number of bits of at least 0"),
        (lambda: SparseDistributed(answer="mean"), 'is "sign" or "sum"; got \'mean\''),  # pyright: ignore
        (lambda: SparseDistributed(None).init(1, 1, 20, 4), "for keys of up to 16 bits; got 20"),
        (lambda: CircleIntersection(0), "at least 1 bit; got 0"),
        (lambda: CircleIntersection(8, 9), r"a circle of 8 bits lies in \[0, 8\]; got 9"),
        (lambda: attention_scale(64, 0), "a line needs three distances; radius=0 and share=0.0 leave 1"),
    ):
        with pytest.raises(InvalidValue, match=message):
            make()
