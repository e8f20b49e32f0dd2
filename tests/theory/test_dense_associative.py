"""Dense associative memories (arXiv 1606.01164, 1702.01929): energies, flips, what is recovered."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import DenseAssociative, Hopfield, Patterns

READS = [
    DenseAssociative("power", 2),
    DenseAssociative("power", 3),
    DenseAssociative("power", 4),
    DenseAssociative("rectified", 3),
    DenseAssociative("exp"),
]
each_read = pytest.mark.parametrize("read", READS, ids=str)


def signs(count: int, size: int) -> Tensor:
    return 2.0 * torch.randint(0, 2, (count, size)).double() - 1


def recalled(read: DenseAssociative, keys: Tensor, q: Tensor, values: Tensor | None = None) -> Tensor:
    memory = mn.KVMemory(read=read)
    values = keys if values is None else values
    state = memory.init(1, 1, keys.shape[1], values.shape[1], dtype=torch.float64)
    state = memory.write_all(state, keys[None, :, None], values[None, :, None])
    return memory.read(state, q[None, :, None])[0, :, 0]


def f(read: DenseAssociative, x: float) -> float:
    if read.form == "exp":
        return math.exp(x)
    return (max(x, 0.0) if read.form == "rectified" else x) ** read.power


def energy(read: DenseAssociative, keys: list[list[float]], s: list[float]) -> float:
    return -sum(f(read, sum(a * b for a, b in zip(k, s, strict=True))) for k in keys)


def swept(read: DenseAssociative, keys: list[list[float]], s: list[float], sweeps: int) -> list[float]:
    """The update written out: each unit takes the sign with the lower energy; equal ones leave it."""
    s = list(s)
    for _ in range(sweeps):
        for i in range(len(s)):
            up, down = ([*s[:i], x, *s[i + 1 :]] for x in (1.0, -1.0))
            gain = energy(read, keys, down) - energy(read, keys, up)
            s[i] = s[i] if abs(gain) < 1e-9 else math.copysign(1.0, gain)
    return s


@each_read
@pytest.mark.parametrize("sweeps", [1, 3])
def test_every_unit_takes_the_sign_of_lower_energy(read: DenseAssociative, sweeps: int) -> None:
    keys, q = signs(6, 9), signs(12, 9)
    state = read.replace(sweeps=sweeps).settle(
        q[None, None], keys[None, None], torch.ones(1, 1, 1, 6, dtype=torch.bool)
    )
    assert state[0, 0].tolist() == [swept(read, keys.tolist(), row, sweeps) for row in q.tolist()]


@each_read
def test_no_flip_raises_the_energy(read: DenseAssociative) -> None:
    """Unit by unit: with one unit left out of the patterns' business the rest of a sweep is the same."""
    keys, q = signs(8, 10), signs(30, 10)
    levels = [read.energy(q, keys)]
    for sweeps in (1, 2, 3):
        levels.append(read.energy(recalled(read.replace(sweeps=sweeps), keys, q), keys))
    for one, other in itertools.pairwise(levels):
        assert bool((other <= one + 1e-9 * one.abs()).all())
    assert bool((levels[1] < levels[0]).any())
    assert float(read.energy(q, keys)[3]) == pytest.approx(energy(read, keys.tolist(), q[3].tolist()))
    real, state = torch.randn(8, 10).double(), q
    for unit in range(10):  # of real patterns too, one flip at a time
        before = read.energy(state, real)
        moved = recalled(read, real, state)
        state = torch.cat([state[:, :unit], _one(read, real, state, unit)[:, None], state[:, unit + 1 :]], 1)
        assert bool((read.energy(state, real) <= before + 1e-9 * before.abs()).all())
        if unit == 0:
            assert moved.shape == state.shape


def _one(read: DenseAssociative, keys: Tensor, state: Tensor, unit: int) -> Tensor:
    """The unit's new signs: the patterns turned so that it comes first in a sweep."""
    order = [unit, *(i for i in range(keys.shape[1]) if i != unit)]
    seen = torch.ones(1, 1, 1, len(keys), dtype=torch.bool)
    return read.settle(state[None, None, :, order], keys[None, None, :, order], seen)[0, 0, :, 0]


def test_the_square_is_the_classical_network() -> None:
    """sign(sum_j J_ij s_j) with J the sum of outer products, without its diagonal."""
    keys, q = signs(5, 12), signs(40, 12)
    coupling = (keys.T @ keys).fill_diagonal_(0)
    state = q.clone()
    for i in range(12):
        field = state @ coupling[i]
        state[:, i] = torch.where(field == 0, state[:, i], field.sign())
    seen = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    assert torch.equal(DenseAssociative("power", 2).settle(q[None, None], keys[None, None], seen)[0, 0], state)


def test_a_single_pattern_is_found_in_one_sweep() -> None:
    key, q = signs(1, 11), signs(40, 11)
    near = q @ key[0]  # an odd number, so never 0
    for read in (DenseAssociative("power", 2), DenseAssociative("power", 4)):
        found = recalled(read, key, q)
        assert bool((found == key).all(1).logical_or((found == -key).all(1)).all())
        clear = near.abs() > 2
        assert torch.equal(found[clear], near[clear].sign()[:, None] * key)
    assert bool((recalled(DenseAssociative("rectified", 3), key, q)[near > 0] == key).all())


@each_read
def test_stored_patterns_stay_and_erased_units_are_filled_in(read: DenseAssociative) -> None:
    keys = torch.tensor(  # rows of a Hadamard matrix: no crosstalk
        [[1, 1, 1, 1, 1, 1, 1, 1], [1, -1, 1, -1, 1, -1, 1, -1], [1, 1, -1, -1, 1, 1, -1, -1]]
    ).double()
    assert torch.equal(recalled(read, keys, keys), keys)
    cues = keys.clone()
    cues[:, 3] = 0
    assert torch.equal(recalled(read, keys, cues), keys)


def test_settled_states_are_what_is_answered() -> None:
    """At a fixed point the read of v = k, which counts a unit's own coupling, gives the state back."""
    for read in READS:
        read = read.replace(sweeps=20)
        keys, q = signs(9, 10), signs(50, 10)
        settled = read.settle(q[None, None], keys[None, None], torch.ones(1, 1, 1, 9, dtype=torch.bool))[0, 0]
        assert torch.equal(recalled(read, keys, q), settled)


def test_values_are_class_units() -> None:
    """c_a = sign( sum F(v_a + k . s) - F(-v_a + k . s) ), as the paper classifies."""
    keys, q, values = signs(7, 9), signs(20, 9), signs(7, 3)
    for read in READS:
        read = read.replace(sweeps=0)
        for row, found in zip(q.tolist(), recalled(read, keys, q, values).tolist(), strict=True):
            for a in range(3):
                total = 0.0
                for k, v in zip(keys.tolist(), values.tolist(), strict=True):
                    m = sum(x * y for x, y in zip(k, row, strict=True))
                    total += f(read, v[a] + m) - f(read, m - v[a])
                assert found[a] == (0.0 if abs(total) < 1e-9 else math.copysign(1.0, total))


def share_recovered(read: DenseAssociative, count: int, trials: int = 20) -> float:
    """64 units, 3 of them turned round, one sweep: how often the pattern comes back without a fault."""
    patterns, whole = Patterns("sign", same=True), 0
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        keys, _ = patterns.draw(count, 64, 64, generator)
        cues = patterns.cues(keys[: trials // 4], 0.05, generator)
        whole += int((recalled(read, keys, cues) == keys[: trials // 4]).all(1).sum())
    return whole / trials


def test_steeper_energies_hold_more() -> None:
    """Figures of an independent simulation: n = 2 holds 9 and not 40; n = 3 holds 150; n = 4 800; exp far more."""
    assert share_recovered(DenseAssociative("rectified", 2), 9) >= 0.95
    assert share_recovered(DenseAssociative("rectified", 2), 40) <= 0.3
    assert share_recovered(DenseAssociative("rectified", 3), 150) >= 0.9
    assert share_recovered(DenseAssociative("rectified", 4), 800) >= 0.9
    assert share_recovered(DenseAssociative("exp"), 5000) == 1.0
    rising = [share_recovered(DenseAssociative("rectified", n), 60) for n in (2, 3, 4)]
    assert rising[0] < 0.3 and rising[1] > 0.9 and rising[2] == 1.0


def test_exp_is_the_modern_network_to_first_order() -> None:
    """sum exp(m + k_i) - exp(m - k_i) = 2 sinh(1) sum exp(m) k_i for signs: the sign of the softmax mean."""
    keys, q = signs(9, 12), signs(30, 12)
    memory = mn.KVMemory(read=Hopfield(scale=1.0))
    state = memory.init(1, 1, 12, 12, dtype=torch.float64)
    mean = memory.read(memory.write_all(state, keys[None, :, None], keys[None, :, None]), q[None, :, None])[0, :, 0]
    assert torch.equal(recalled(DenseAssociative("exp", sweeps=0), keys, q), mean.sign())


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_exp_descends_where_the_modern_network_goes(scale: float) -> None:
    """On the sphere, with F(x) = exp(scale x), which is that of patterns `scale` times as long: the slope of the energy
    points to the softmax mean of the patterns, and answers to small values are its signs."""
    patterns, s = torch.nn.functional.normalize(torch.randn(9, 12, dtype=torch.float64), dim=-1), signs(30, 12)
    memory, state = mn.KVMemory(read=Hopfield(scale=scale)), (s / math.sqrt(12)).requires_grad_()
    held = memory.init(1, 1, 12, 12, dtype=torch.float64)
    held = memory.write_all(held, patterns[None, :, None], patterns[None, :, None])
    mean = memory.read(held, state.detach()[None, :, None])[0, :, 0]
    read = DenseAssociative("exp", sweeps=0)
    (slope,) = torch.autograd.grad(read.energy(state, scale * patterns).sum(), state)
    alike = torch.nn.functional.cosine_similarity(-slope, mean)
    assert float((alike - 1).abs().max()) < 1e-12
    assert torch.equal(recalled(read, scale / math.sqrt(12) * patterns, s, 1e-4 * patterns), mean.sign())


def test_large_overlaps_do_not_overflow() -> None:
    for read in (DenseAssociative("exp"), DenseAssociative("rectified", 30), DenseAssociative("power", 30)):
        keys = signs(4, 512).float()
        memory = mn.KVMemory(read=read)
        state = memory.write_all(memory.init(1, 1, 512, 512), keys[None, :, None], keys[None, :, None])
        cues = keys.clone()
        cues[:, :40] *= -1
        assert torch.equal(memory.read(state, cues[None, :, None])[0, :, 0], keys)


def test_options_that_cannot_be() -> None:
    for make, message in (
        (lambda: DenseAssociative("cubic"), 'is "power", "rectified" or "exp"; got \'cubic\''),  # pyright: ignore
        (lambda: DenseAssociative(power=1), "at least 2; got 1"),
        (lambda: DenseAssociative("exp", 4), 'is not for form="exp"; leave it out, got 4'),
        (lambda: DenseAssociative(sweeps=-1), "at least 0; got -1"),
    ):
        with pytest.raises(InvalidValue, match=message):
            make()
