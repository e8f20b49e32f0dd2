"""What softmax with a one in its denominator must satisfy, as attention and as a Hopfield network."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import SoftmaxOne
from mnemos.state import State

B, T, H, K = 2, 21, 2, 4
ONE = mn.KVMemory(read=SoftmaxOne())


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, T, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def run(memory: mn.KVMemory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return mn.run(memory, q, k, v)[0]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def scores(q: Tensor, k: Tensor, scale: float = 1 / math.sqrt(K)) -> Tensor:
    """(B, H, T, T), minus infinity for later entries."""
    later = torch.ones(T, T).triu(1).bool()
    return (scale * torch.einsum("bthk,bshk->bhts", q, k)).masked_fill(later, -torch.inf)


def test_the_formula() -> None:
    q, k, v = inputs()
    exps = torch.exp(scores(q, k, 0.7))
    expected = torch.einsum("bhts,bshv->bthv", exps / (1 + exps.sum(-1, keepdim=True)), v)
    assert_same(run(mn.KVMemory(read=SoftmaxOne(scale=0.7)), q, k, v), expected)


def test_it_is_softmax_with_an_entry_of_nothing() -> None:
    q, k, v = inputs()
    nothing = torch.zeros(B, 1, H, K, dtype=torch.float64)
    longer = run(mn.KVMemory(), *(torch.cat([nothing, x], 1) for x in (q, k, v)))
    assert_same(run(ONE, q, k, v), longer[:, 1:])


def test_it_is_softmax_times_the_sigmoid_of_the_log_sum() -> None:
    """With ones for values this is the sum of the weights, which stays below 1."""
    q, k, v = inputs()
    factor = torch.sigmoid(scores(q, k).logsumexp(-1)).transpose(1, 2)[..., None]
    assert_same(run(ONE, q, k, v), factor * run(mn.KVMemory(), q, k, v))
    total = run(ONE, q, k, torch.ones_like(v))
    assert_same(total, factor.expand_as(total))
    assert bool((total < 1).all())


def shifted(q: Tensor, k: Tensor, by: float) -> tuple[Tensor, Tensor]:
    """All scores greater by that much, through one more channel."""
    return torch.cat([q, torch.ones_like(q[..., :1])], -1), torch.cat([k, torch.full_like(k[..., :1], by)], -1)


def test_scores_are_against_zero_not_only_against_each_other() -> None:
    q, k, v = inputs()
    one, plain = (mn.KVMemory(read=read(scale=1.0)) for read in (SoftmaxOne, mn.Softmax))
    for by in (-3.0, 2.0):
        assert_same(run(plain, *shifted(q, k, by), v), run(plain, q, k, v))
        assert float((run(one, *shifted(q, k, by), v) - run(one, q, k, v)).abs().max()) > 0.1
    assert_same(run(one, *shifted(q, k, 60.0), v), run(plain, q, k, v))
    assert float(run(one, *shifted(q, k, -60.0), v).abs().max()) < 1e-20


@pytest.mark.parametrize("by", [1e4, -1e4])
def test_extreme_scores(by: float) -> None:
    q, k, v = (x.requires_grad_() for x in inputs())
    memory = mn.KVMemory(read=SoftmaxOne(scale=1.0))
    out = run(memory, *shifted(q, k, by), v)
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert bool(torch.isfinite(gradient).all())
    assert_same(out, run(mn.KVMemory(read=mn.Softmax(scale=1.0)), q, k, v) if by > 0 else torch.zeros_like(v))


def test_an_empty_memory_answers_nothing() -> None:
    state = ONE.init(B, H, K, K, dtype=torch.float64)
    q = torch.randn(B, H, K, dtype=torch.float64, requires_grad=True)
    out = ONE.read(state, q)
    assert not out.any()
    window = mn.KVMemory(retain=mn.Window(3), read=SoftmaxOne())  # places, but nothing in them
    assert not window.read(window.init(B, H, K, K, dtype=torch.float64), q).any()


BETA = 1.7


def patterns(x: Tensor) -> State:
    """A memory of the patterns x (N, K), as keys and as values."""
    x = x[None, :, None]
    return mn.run(HOPFIELD, torch.zeros_like(x), x, x)[1]


HOPFIELD = mn.KVMemory(read=SoftmaxOne(scale=BETA))


def energy(x: Tensor, xi: Tensor) -> float:
    exponents = torch.cat([torch.zeros(1, dtype=x.dtype), BETA * x @ xi])
    return float(-exponents.logsumexp(0) / BETA + xi.square().sum() / 2)


def test_reading_again_and_again_goes_down_in_energy_to_a_fixed_point() -> None:
    x = torch.randn(7, K, dtype=torch.float64)
    state = patterns(x)
    for _ in range(5):
        xi = last = 2 * torch.randn(K, dtype=torch.float64)
        energies = []
        for _ in range(400):
            energies.append(energy(x, xi))
            last, xi = xi, HOPFIELD.read(state, xi[None, None])[0, 0]
        assert all(after <= before + 1e-13 for before, after in itertools.pairwise(energies))
        assert energies[-1] < energies[0]
        assert_same(xi, last, 1e-8)
        leaf = xi.clone().requires_grad_()
        exponents = torch.cat([torch.zeros(1, dtype=x.dtype), BETA * x @ leaf])
        (slope,) = torch.autograd.grad(-exponents.logsumexp(0) / BETA + leaf.square().sum() / 2, leaf)
        assert float(slope.abs().max()) < 1e-8


def test_nothing_stays_nothing_only_among_patterns_that_cancel() -> None:
    x = torch.randn(7, K, dtype=torch.float64)
    zero = torch.zeros(1, 1, K, dtype=torch.float64)
    assert_same(HOPFIELD.read(patterns(x), zero)[0, 0], x.sum(0) / 8)
    assert_same(HOPFIELD.read(patterns(x - x.mean(0)), zero), zero)


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidValue, match=r"SoftmaxOne\(scale=\) must be positive"):
        SoftmaxOne(scale=0.0)
