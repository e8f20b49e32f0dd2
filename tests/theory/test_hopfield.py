"""Modern Hopfield networks (arXiv 2008.02217): the update, its energy, what it stores, and the three layers, written
literally from the paper's formulas."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import HopfieldLookup, HopfieldPooling
from mnemos.memory import Hopfield, Patterns, metastable_size

Module = TypeVar("Module", bound=torch.nn.Module)

N, K = 12, 6


def patterns(count: int = N, size: int = K) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64)


def stored(keys: Tensor, read: Hopfield, values: Tensor | None = None) -> tuple[mn.KVMemory, mn.State]:
    memory = mn.KVMemory(read=read)
    values = keys if values is None else values
    state = memory.init(1, 1, keys.shape[1], values.shape[1], dtype=torch.float64)
    return memory, memory.write_all(state, keys[None, :, None], values[None, :, None])


def asked(memory: mn.KVMemory, state: mn.State, q: Tensor) -> Tensor:
    return memory.read(state, q[None, :, None])[0, :, 0]


def recalled(keys: Tensor, q: Tensor, read: Hopfield, values: Tensor | None = None) -> Tensor:
    return asked(*stored(keys, read, values), q)


def literal(x: Tensor, xi: Tensor, beta: float, updates: int) -> Tensor:
    """xi' = X softmax(beta X^T xi), with the patterns as columns."""
    for _ in range(updates):
        xi = x @ torch.softmax(beta * x.T @ xi, 0)
    return xi


def moved(layer: Module) -> Module:
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_it_is_the_update_of_the_paper(steps: int) -> None:
    keys, q, values = patterns(), patterns(5), patterns(N, 3)
    found = recalled(keys, q, Hopfield(steps, eps=0.0, scale=1.3), values)
    for row, xi in zip(found, q, strict=True):
        xi = literal(keys.T, xi, 1.3, steps)
        assert_same(row, values.T @ torch.softmax(1.3 * keys @ xi, 0))
    assert_same(
        recalled(keys, q, Hopfield(steps, 0.0, 1.3)), torch.stack([literal(keys.T, x, 1.3, steps + 1) for x in q])
    )


def test_without_updates_it_is_softmax_attention() -> None:
    q, k, v = (torch.randn(2, 9, 2, 4, dtype=torch.float64) for _ in range(3))
    for scale in (None, 0.7):
        attention = mn.run(mn.KVMemory(read=mn.Softmax(scale=scale)), q, k, v)[0]
        assert_same(mn.run(mn.KVMemory(read=Hopfield(scale=scale)), q, k, v)[0], attention)


def energy(x: Tensor, xi: Tensor, beta: float) -> float:
    lse = math.log(sum(math.exp(beta * float(p @ xi)) for p in x)) / beta
    longest = max(float(p @ p) for p in x)
    return -lse + 0.5 * float(xi @ xi) + math.log(len(x)) / beta + 0.5 * longest


@pytest.mark.parametrize("scale", [0.2, 1.0, 8.0])
def test_updates_never_raise_the_energy(scale: float) -> None:
    keys, q = patterns(), 2 * patterns(50)
    read = Hopfield(1, eps=0.0, scale=scale)
    for row, value in zip(q, read.energy(q, keys), strict=True):
        assert abs(float(value) - energy(keys, row, scale)) < 1e-10
    last, fell = read.energy(q, keys), 0.0
    for _ in range(30):
        q = recalled(keys, q, Hopfield(0, scale=scale))
        now = read.energy(q, keys)
        assert bool((now <= last + 1e-12).all()) and bool((now >= 0).all())
        fell, last = fell + float((last - now).sum()), now
    assert fell > 1.0


def test_fixed_points_are_means_of_the_patterns_under_their_own_weights() -> None:
    keys, q = patterns(), patterns(20)
    found = recalled(keys, q, Hopfield(5000, eps=1e-14, scale=0.8))
    assert_same(found, torch.softmax(0.8 * found @ keys.T, -1) @ keys, 1e-10)
    assert float((found - q).abs().max()) > 0.1


def test_a_sharp_scale_finds_the_nearest_and_a_dull_one_the_mean() -> None:
    keys, q = patterns(), patterns(20)
    assert_same(recalled(keys, q, Hopfield(scale=1e5)), keys[(q @ keys.T).argmax(1)], 1e-9)
    assert_same(recalled(keys, q, Hopfield(3, scale=1e-9)), keys.mean(0).expand(20, -1), 1e-7)


def test_answers_lie_in_the_convex_hull() -> None:
    """Every linear functional of an answer stays within its range over the patterns."""
    keys, directions = patterns(), patterns(200)
    for steps in (0, 3):
        found = recalled(keys, 3 * patterns(20), Hopfield(steps, scale=0.9)) @ directions.T
        of_patterns = keys @ directions.T
        assert bool((found <= of_patterns.amax(0) + 1e-12).all() & (found >= of_patterns.amin(0) - 1e-12).all())


def test_a_single_pattern_is_always_found() -> None:
    keys = patterns(1)
    assert_same(recalled(keys, 9 * patterns(5), Hopfield(scale=0.01)), keys.expand(5, -1))


def test_each_query_stops_by_itself() -> None:
    """Beside slow neighbours a query ends where it ends alone: after the first update that moves its weights by eps at
    most, and not later."""
    keys, q = patterns(), patterns(30)
    eps, scale = 0.02, 1.0
    memory, state = stored(keys, Hopfield(50, eps, scale))
    together = asked(memory, state, q)
    needed = []
    for row, answer in zip(q, together, strict=True):
        p = torch.softmax(scale * keys @ row, 0)
        needed.append(0)
        for _ in range(50):
            needed[-1] += 1
            before, p = p, torch.softmax(scale * keys @ (p @ keys), 0)
            if float((p - before).norm()) <= eps:
                break
        assert_same(answer, p @ keys)
        assert_same(asked(memory, state, row[None])[0], answer)
    assert len(set(needed)) > 3


def test_the_error_of_one_update_falls_exponentially_with_the_scale() -> None:
    """50 random directions of 64 channels, cues with noise of 0.05 a coordinate."""
    generator = torch.Generator().manual_seed(0)
    keys, _ = Patterns().draw(50, 64, 1, generator)
    q = keys + 0.05 * torch.randn(keys.shape, generator=generator, dtype=torch.float64)
    errors = [float((recalled(keys, q, Hopfield(scale=s)) - keys).norm(dim=1).mean()) for s in (1.0, 8.0, 32.0)]
    assert errors[0] > 0.9 and 0.005 < errors[1] < 0.1 and errors[2] < 1e-8


def test_the_bound_on_the_error_of_one_update() -> None:
    """|x_i - f(xi)| <= 2 (N - 1) M exp(-beta (separation_i - 2 |xi - x_i| M))."""
    keys = torch.nn.functional.normalize(patterns(20, 32), dim=-1)
    q = keys + 0.02 * torch.nn.functional.normalize(patterns(20, 32), dim=-1)
    near = keys @ keys.T
    separation = 1 - near.fill_diagonal_(-math.inf).amax(1)
    for scale in (5.0, 20.0):
        error = (recalled(keys, q, Hopfield(scale=scale)) - keys).norm(dim=1)
        bound = 2 * 19 * torch.exp(-scale * (separation - 2 * 0.02))
        assert bool((error <= bound).all())


def test_thousands_of_patterns_where_hebb_stores_a_tenth_of_the_channels() -> None:
    """64 signs with 10 % turned round: one update, against sign(J q) of the classical network."""
    patterns, options = Patterns("sign", same=True), {"key_dim": 64, "threshold": 0.05, "seeds": 2, "progress": False}
    sharp = mn.KVMemory(read=Hopfield(scale=1.0))
    (many,) = mn.capacity(sharp, counts=(3000,), patterns=patterns, noise=0.1, **options).curves
    assert many.open
    keys, _ = patterns.draw(20, 64, 64, torch.Generator().manual_seed(0))
    for count, holds in ((5, True), (20, False)):
        x = keys[:count]
        coupling = (x.T @ x).fill_diagonal_(0)
        wrong = ((x @ coupling).sign() != x).double().mean()
        assert (float(wrong) < 0.001) is holds


def test_metastable_states_are_counted() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.15, 0.05], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert metastable_size(weights).tolist() == [3, 1, 4]
    assert metastable_size(weights, 0.5).tolist() == [1, 1, 2]
    assert metastable_size(weights, 1.0).tolist() == [4, 1, 4]
    with pytest.raises(InvalidValue, match=r"metastable_size\(share=\) lies in \(0, 1\]; got 0"):
        metastable_size(weights, 0)
    # Two close pairs: a middling scale ends in the mean of a pair.
    keys = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]]).double()
    for scale, size in ((1e-3, 4), (5.0, 2), (2000.0, 1)):
        found = recalled(keys, keys[:1], Hopfield(100, scale=scale))
        assert metastable_size(torch.softmax(scale * found @ keys.T, -1)).tolist() == [size]


@pytest.mark.parametrize("steps", [0, 2])
def test_pooling_is_the_network_asked_with_learned_queries(steps: int) -> None:
    layer = moved(HopfieldPooling(quantity=3, steps=steps, eps=0.0).build(8, 2))
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    y = layer(x)[0]
    seen = torch.nn.functional.layer_norm(x, (8,), layer.norm.weight, layer.norm.bias)
    static = torch.nn.functional.layer_norm(layer.query, (8,), layer.query_norm.weight, layer.query_norm.bias)
    q, k, v = layer.ask(static), layer.project(seen)[..., :8], layer.project(seen)[..., 8:]
    for t in (0, 3, 6):
        for row in range(2):
            heads = []
            for h in range(2):
                at = slice(4 * h, 4 * h + 4)
                keys, values = k[row, : t + 1, at], v[row, : t + 1, at]
                for i in range(3):
                    xi = literal(keys.T, q[i, at], 0.5, steps)
                    heads.append(torch.softmax(0.5 * keys @ xi, 0) @ values)
            assert_same(y[row, t], layer.out(torch.cat(heads)))


@pytest.mark.parametrize("steps", [0, 2])
def test_pooling_does_not_depend_on_the_order_nor_on_padding(steps: int) -> None:
    layer = moved(HopfieldPooling(quantity=2, steps=steps).build(8, 2))
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    pooled = layer(x)[0][:, -1]
    assert_same(layer(x[:, torch.randperm(9)])[0][:, -1], pooled)
    padded = torch.randn(2, 15, 8, dtype=torch.float64)
    mask = torch.zeros(2, 15, dtype=torch.bool)
    mask[:, [0, 1, 3, 4, 6, 8, 9, 12, 14]] = True
    padded[mask] = x.flatten(0, 1)
    assert_same(layer(padded, mask=mask)[0][:, -1], pooled)


def test_pooling_without_updates_keeps_means_only() -> None:
    layer = HopfieldPooling(quantity=3).build(8, 2)
    sizes = {layer(torch.randn(1, n, 8))[1].nbytes for n in (1, 50)}
    assert sizes == {(6 * 4 + 6) * 4}


@pytest.mark.parametrize("steps", [0, 2])
def test_lookup_is_the_network_of_learned_patterns(steps: int) -> None:
    layer = moved(HopfieldLookup(entries=5, steps=steps, eps=0.0, scale=0.7).build(8, 2))
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    y, state = layer(x)
    assert state["count"].tolist() == [7, 7]
    normed = torch.nn.functional.layer_norm(x, (8,), layer.norm.weight, layer.norm.bias)
    held = torch.nn.functional.layer_norm(layer.patterns, (8,), layer.pattern_norm.weight, layer.pattern_norm.bias)
    q, k, v = layer.ask(normed), layer.project(held)[:, :8], layer.project(held)[:, 8:]
    for row, t in ((0, 0), (1, 6)):
        parts = []
        for at in (slice(0, 4), slice(4, 8)):
            xi = literal(k[:, at].T, q[row, t, at], 0.7, steps)
            parts.append(torch.softmax(0.7 * k[:, at] @ xi, 0) @ v[:, at])
        assert_same(y[row, t], layer.out(torch.cat(parts)))


def test_options_that_cannot_be() -> None:
    for make, message in (
        (lambda: Hopfield(-1), r"Hopfield\(steps=\) is a number of updates of at least 0; got -1"),
        (lambda: Hopfield(1, eps=math.nan), r"Hopfield\(eps=\) is at least 0; got nan"),
        (lambda: Hopfield(1, scale=0.0), r"Hopfield\(scale=\) must be positive"),
        (lambda: HopfieldPooling(0), r"HopfieldPooling\(quantity=\) is at least 1; got 0"),
        (lambda: HopfieldPooling(steps=-1), r"Hopfield\(steps=\)"),
        (lambda: HopfieldLookup(0), r"HopfieldLookup\(entries=\) is at least 1; got 0"),
        (lambda: HopfieldLookup(scale=-1.0), r"Hopfield\(scale=\) must be positive"),
    ):
        with pytest.raises(InvalidValue, match=message):
            make()
