"""What attention as a filter must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import FilterAttention, FilterAttentionLayer
from mnemos.memory import AdaptiveFilter
from mnemos.memory.read.adaptive_filter import carried_variance

B, T, H, K = 2, 19, 2, 4
NAMES = ("damping", "process", "source", "anchor", "freedom", "sharpness")


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def variance(age: float, damping: float, process: float, source: float, anchor: float) -> float:
    numbers = (torch.tensor(x, dtype=torch.float64) for x in (age, damping, process, source, anchor))
    return float(carried_variance(*numbers))


@pytest.mark.parametrize(("damping", "process"), [(0.3, 0.5), (1.2, 0.1), (0.0, 0.4), (2.0, 0.0)])
def test_the_variance_solves_its_differential_equation(damping: float, process: float) -> None:
    """dV/ds = process - 2 damping (V - anchor), V(0) = source + anchor, by Runge-Kutta."""
    source, anchor, steps, end = 0.7, 0.2, 400, 3.0
    value, h = source + anchor, end / steps

    def slope(v: float) -> float:
        return process - 2 * damping * (v - anchor)

    assert variance(0.0, damping, process, source, anchor) == pytest.approx(value, abs=1e-15)
    for _ in range(steps):
        a = slope(value)
        b = slope(value + h / 2 * a)
        c = slope(value + h / 2 * b)
        value += h / 6 * (a + 2 * b + 2 * c + slope(value + h * c))
    assert variance(end, damping, process, source, anchor) == pytest.approx(value, abs=1e-8)


def test_small_dampings_go_over_into_none() -> None:
    def literal(damping: float, age: float) -> float:
        left = math.exp(-2 * damping * age)
        return 0.5 * -math.expm1(-2 * damping * age) / (2 * damping) + 0.7 * left + 0.2

    for age in (1.0, 10.0, 1000.0):
        for damping in (
            1e-12,
            1e-9,
            1e-7,
            4.9e-5 / age,
            5.1e-5 / age,
            1e-3,
        ):  # either side of where the formula changes
            assert variance(age, damping, 0.5, 0.7, 0.2) == pytest.approx(literal(damping, age), rel=1e-12)
        assert variance(age, 0.0, 0.5, 0.7, 0.2) == pytest.approx(0.5 * age + 0.7 + 0.2, rel=1e-14)
    assert abs(variance(1.0, 1e-5, 0.5, 0.7, 0.2) - variance(1.0, 0.0, 0.5, 0.7, 0.2)) < 2.1e-5
    damping = torch.zeros((), dtype=torch.float64, requires_grad=True)
    four, rest = torch.tensor(4.0).double(), torch.tensor(0.5).double()
    (slope,) = torch.autograd.grad(carried_variance(four, damping, rest, rest, rest), damping)
    assert float(slope) == pytest.approx(-0.5 * 16 - 2 * 0.5 * 4)  # of process (1 - e^-2ds)/2d + source e^-2ds at d = 0


def test_how_strongly_an_entry_counts_peaks_where_theory_says() -> None:
    """E / V rises first if and only if source - s exceeds s + anchor, s = process / (2 damping)."""
    ages = torch.linspace(0, 60, 60001, dtype=torch.float64)
    for source, rises in ((4.0, True), (0.6, False)):
        damping, process, anchor = 0.05, 0.02, 0.3
        numbers = [torch.tensor(x, dtype=torch.float64) for x in (damping, process, source, anchor)]
        strength = torch.exp(-damping * ages) / carried_variance(ages, *numbers)
        s = process / (2 * damping)
        alpha, beta = source - s, s + anchor
        assert (alpha > beta) == rises
        peak = math.log(alpha / beta) / (2 * damping) if rises else 0.0
        assert float(ages[strength.argmax()]) == pytest.approx(peak, abs=2e-3)


def numbers(**given: float) -> dict[str, Tensor]:
    """Controls (B, T, H) that no token changes."""
    own = {"damping": 0.1, "process": 0.3, "source": 0.5, "anchor": 0.2, "freedom": 1.0, "sharpness": 1.0} | given
    return {name: torch.full((B, T, H), own[name], dtype=torch.float64) for name in NAMES}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, T, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


LAG = torch.arange(T)[:, None] - torch.arange(T)


def scores(q: Tensor, k: Tensor, controls: dict[str, Tensor]) -> Tensor:
    """What the read gives, (B, H, T, T)."""
    by_head = {name: x.transpose(1, 2) for name, x in controls.items()}
    return AdaptiveFilter().score(q.transpose(1, 2), k.transpose(1, 2), LAG, by_head)


def test_an_entry_fits_best_where_the_query_is_what_became_of_it() -> None:
    """The residual is zero for q = E k, and positive for all others."""
    _, k, _ = inputs()
    controls, age = numbers(damping=0.2), 5
    best = -torch.log(torch.tensor(variance(age, 0.2, 0.3, 0.5, 0.2)))
    q = torch.exp(torch.tensor(-0.2 * age)).double() * k.roll(age, 1)  # token t asks for t - age
    found = scores(q, k, controls).diagonal(-age, -2, -1)
    assert_same(found, best.double().expand_as(found), 1e-6)
    for move in (0.1, 1.0):
        moved = scores(q + move * torch.nn.functional.normalize(torch.randn_like(q), dim=-1), k, controls)
        gone = moved.diagonal(-age, -2, -1) - found
        expected = -2 * math.log1p(move**2 / (K * variance(age, 0.2, 0.3, 0.5, 0.2)))
        assert_same(gone, torch.full_like(gone, expected), 1e-6)


def test_many_degrees_of_freedom_are_a_normal_distribution() -> None:
    q, k, _ = inputs()
    apart = (q[:, :, None] - torch.exp(-0.1 * LAG.clamp(min=0))[..., None, None] * k[:, None]).square().sum(-1)
    spread = carried_variance(LAG.clamp(min=0).double(), *(torch.tensor(x).double() for x in (0.1, 0.3, 0.5, 0.2)))
    normal = -torch.log(spread) - apart.movedim(-1, 1) / (K * spread)
    seen = torch.ones(T, T).tril().bool()
    errors = [
        float((scores(q, k, numbers(freedom=freedom)) - normal)[..., seen].abs().max()) for freedom in (1.0, 1e3, 1e6)
    ]
    assert errors[0] > 0.1 and errors[2] < 1e-3 and errors[2] < errors[1] / 500


def test_a_state_that_keeps_still_is_read_by_softmax_attention() -> None:
    """No damping, no noise, keys of one length, a normal distribution: scores are 2 q . k / (K V), less the same for
    all."""
    q, k, v = inputs()
    k = torch.nn.functional.normalize(k, dim=-1)
    still = numbers(damping=0.0, process=0.0, freedom=1e7)
    out, _ = mn.run(mn.KVMemory(read=AdaptiveFilter()), q, k, v, still)
    softmax, _ = mn.run(mn.KVMemory(read=mn.Softmax(scale=2 / (K * 0.7))), q, k, v)
    assert_same(out, softmax, 1e-5)
    moving, _ = mn.run(mn.KVMemory(read=AdaptiveFilter()), q, k, v, numbers(freedom=1e7))
    assert float((moving - softmax).abs().max()) > 0.05


def test_a_state_that_only_wanders_is_read_with_a_logarithmic_bias() -> None:
    """No damping, and all keys fit: the weights go by 1 / (process lag + source + anchor)."""
    q, _, v = inputs()
    q = q[:, :1].expand_as(q)
    out, _ = mn.run(mn.KVMemory(read=AdaptiveFilter()), q, q, v, numbers(damping=0.0))
    weights = (1 / (0.3 * LAG + 0.7)).tril()
    weights = (weights / weights.sum(-1, keepdim=True)).double()
    assert_same(out, torch.einsum("ts,bshv->bthv", weights, v), 1e-6)


def built(coupling: float | None = None) -> FilterAttentionLayer:
    """A layer with numbers of every head's own."""
    layer = FilterAttention(rotary=50.0, coupling=coupling).build(H * K, H).double()
    with torch.no_grad():
        for rule in layer.controls.values():
            rule.get_parameter("raw").add_(torch.randn(H))
    return layer


@pytest.mark.parametrize("coupling", [None, 0.05, 5.0])
def test_the_layer_by_complex_numbers(coupling: float | None) -> None:
    """z_j carried to t: e^(-damping lag + i omega lag) z_j; channel i and i + K/2 are one complex number."""
    layer, x = built(coupling), torch.randn(B, T, H * K, dtype=torch.float64)
    q, k, v = (
        torch.complex(y[..., : K // 2], y[..., K // 2 :])
        for y in (y.unflatten(-1, (H, K)) for y in layer.project(x).chunk(3, -1))
    )
    if coupling is None:
        bands = [[50.0 ** (-i / (K // 2)) for i in range(K // 2)]] * H
    else:  # each head has the next few of all frequencies
        bands = [[50.0 ** (-(h * K // 2 + i) / (H * K // 2)) for i in range(K // 2)] for h in range(H)]
    own = {name: rule(x)[0, 0].detach() for name, rule in layer.controls.items()}
    out = torch.zeros(B, T, H, K, dtype=torch.float64)
    for h in range(H):
        omega = torch.tensor(bands[h], dtype=torch.float64)
        if coupling is not None:
            own["damping"] = coupling * torch.tensor([max(band) for band in bands], dtype=torch.float64)
        damping, process, source, anchor, freedom, sharpness = (float(own[name][h]) for name in NAMES)
        nu = freedom * K
        for t in range(T):
            logs, carried = [], []
            for j in range(t + 1):
                lag = t - j
                moved = torch.exp((-damping + 1j * omega) * lag)
                apart = (q[:, t, h] - moved * k[:, j, h]).abs().square().sum(-1)
                shrunk = math.exp(-2 * damping * lag)
                spread = process * (1 - shrunk) / (2 * damping) + source * shrunk + anchor
                logs.append(sharpness * (-math.log(spread) - (nu + K) / K * torch.log(1 + apart / (spread * nu))))
                carried.append(moved * v[:, j, h])
            weights = torch.softmax(torch.stack(logs, -1), -1)
            innovation = (weights[..., None] * torch.stack(carried, 1)).sum(1) - v[:, t, h]
            out[:, t, h] = torch.cat([innovation.real, innovation.imag], -1)
    assert_same(layer(x)[0], out.flatten(-2) @ layer.out.weight.T, 1e-10)


def test_when_it_all_happens_does_not_matter() -> None:
    layer, x = built(), torch.randn(B, T, H * K, dtype=torch.float64)
    fresh = layer.init_state(B)
    memory = fresh.child("memory")
    later = memory.successor(**memory.entries | {"count": memory["count"] + 1000})
    late = fresh.successor(memory=later, count=fresh["count"] + 1000)
    assert_same(layer(x, late)[0], layer(x)[0], 1e-10)


def test_a_first_token_says_nothing_new() -> None:
    layer, x = built(), torch.randn(B, T, H * K, dtype=torch.float64)
    out = layer(x)[0].detach()
    assert float(out[:, 0].abs().max()) < 1e-14 and bool((out[:, 1:].abs().amax(-1) > 1e-3).all())


def test_six_numbers_a_head() -> None:
    layer = FilterAttention().build(32, 4)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 32**2 + 6 * 4
    damping = layer.controls["damping"](torch.zeros(1, 1, 32))[0, 0]
    assert torch.allclose(damping, torch.logspace(-1, -3, 4), rtol=1e-4)
    coupled = FilterAttention(coupling=0.05).build(32, 4)
    assert sum(p.numel() for p in coupled.parameters()) == 4 * 32**2 + 5 * 4


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidValue, match=r"FilterAttention\(rotary=\) is a base above 1"):
        FilterAttention(rotary=1.0)
    with pytest.raises(InvalidValue, match=r"coupling=\) is a factor of at least 0"):
        mn.zoo.adaptive_filter_attention(coupling=-0.1)
    with pytest.raises(InvalidType, match="retain= takes a Retain"):
        FilterAttention(retain=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValue, match="rotary positions turn pairs of channels; got 3 a head"):
        FilterAttention().build(6, 2)
    with pytest.raises(InvalidType, match="mask= takes a Mask"):
        AdaptiveFilter(mask="all")  # pyright: ignore[reportArgumentType]
    q, k, v = inputs()
    with pytest.raises(InvalidValue, match="'source' must lie in"):
        mn.run(mn.KVMemory(read=AdaptiveFilter()), q, k, v, numbers(source=0.0))
