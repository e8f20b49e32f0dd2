"""Longhorn: the implicit step, as a minimum, as a delta rule, and along the diagonal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import LonghornLayer
from mnemos.lowering import lower
from mnemos.lowering.lower import Request
from mnemos.memory import Implicit

B, T, H, K, V = 2, 37, 2, 6, 5
FULL = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), Implicit())
DIAGONAL = FULL.replace(learner=Implicit(diagonal=True))


def inputs(time: int = T) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys of any length, and rates far above 1 among others."""
    q, k = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(2))
    v = torch.randn(B, time, H, V, dtype=torch.float64)
    return q, k, v, 10 * torch.rand(B, time, H, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    error = float((one - other).detach().abs().max())
    assert error <= tolerance * max(1.0, float(other.detach().abs().max())), error


def test_they_run_in_parallel() -> None:
    q, k, v, _ = inputs()
    request = Request.of(q, k, v, True)
    assert lower(FULL, request).executor.name in (
        "implicit step as gradient step: compiled recurrence",
        "implicit step as gradient step: triangular delta",
    )
    assert lower(DIAGONAL, request).executor.name == "diagonal steps"


def test_the_step_is_a_minimum() -> None:
    """The objective's gradient vanishes at the new weights, and every other point is worse."""
    _, k, v, rate = inputs(1)
    before = torch.randn(H, V, K, dtype=torch.float64)
    _, state = mn.run(FULL, k, k, v, {"rate": rate}, {"matrix": before})

    def objective(weight: Tensor) -> Tensor:
        residual = torch.einsum("bhvk,bhk->bhv", weight, k[:, 0]) - v[:, 0]
        return ((weight - before).square().sum((-2, -1)) + rate[:, 0] * residual.square().sum(-1)).sum()

    point = state["matrix"].clone().requires_grad_()
    least = objective(point)
    (slope,) = torch.autograd.grad(least, point)
    assert_same(slope, torch.zeros_like(slope))
    for _ in range(20):
        assert objective(state["matrix"] + 0.01 * torch.randn_like(before)) > least


def test_a_chain_of_minima_by_a_least_squares_solver() -> None:
    """Each W_t solves [I; sqrt(b) k^T] W^T = [W_t-1^T; sqrt(b) v^T] in the least squares sense."""
    q, k, v, rate = inputs(9)
    out, _ = mn.run(FULL, q, k, v, {"rate": rate})
    weight = torch.zeros(B, H, V, K, dtype=torch.float64)
    eye = torch.eye(K, dtype=torch.float64).expand(B, H, K, K)
    for t in range(9):
        share = rate[:, t, :, None].sqrt()
        left = torch.cat([eye, (share * k[:, t])[..., None, :]], -2)
        right = torch.cat([weight.mT, (share * v[:, t])[..., None, :]], -2)
        weight = torch.linalg.lstsq(left, right).solution.mT
        assert_same(out[:, t], torch.einsum("bhvk,bhk->bhv", weight, q[:, t]))


def test_it_is_a_delta_rule_on_keys_of_any_length() -> None:
    q, k, v, rate = inputs()
    out, state = mn.run(FULL, q, k, v, {"rate": rate})
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD())
    step = rate / (1 + rate * k.square().sum(-1))
    expected, last = mn.run(delta, q, k, v, {"rate": step})
    assert_same(out, expected)
    assert_same(state["matrix"], last["matrix"])


def test_a_large_rate_interpolates_and_a_rate_of_zero_changes_nothing() -> None:
    _, k, v, rate = inputs()
    out, _ = mn.run(FULL, k, k, v, {"rate": torch.full_like(rate, 1e12)})
    assert_same(out, v, 1e-9)
    rate[:, 20:] = 0
    for memory in (FULL, DIAGONAL):
        given = rate if memory is FULL else rate[..., None].expand_as(v)
        _, early = mn.run(memory, k[:, :20], k[:, :20], v[:, :20], {"rate": given[:, :20]})
        _, late = mn.run(memory, k, k, v, {"rate": given})
        assert_same(late["matrix"], early["matrix"])


def test_the_diagonal_is_the_whole_for_keys_along_an_axis() -> None:
    q, _, v, rate = inputs()
    axis = torch.nn.functional.one_hot(torch.randint(K, (B, T, H)), K).double()
    k = axis * torch.randn(B, T, H, 1, dtype=torch.float64)
    full, _ = mn.run(FULL, q, k, v, {"rate": rate})
    diagonal, _ = mn.run(DIAGONAL, q, k, v, {"rate": rate[..., None].expand_as(v)})
    assert_same(diagonal, full)
    _, k, _, _ = inputs()
    full, _ = mn.run(FULL, q, k, v, {"rate": rate})
    diagonal, _ = mn.run(DIAGONAL, q, k, v, {"rate": rate[..., None].expand_as(v)})
    assert float((diagonal - full).abs().max()) > 1e-2


def test_the_diagonal_form_element_by_element() -> None:
    q, k, v, _ = inputs()
    rate = 10 * torch.rand(B, T, H, V, dtype=torch.float64)
    out, state = mn.run(DIAGONAL, q, k, v, {"rate": rate})
    kept = torch.zeros(B, H, V, K, dtype=torch.float64)
    for t in range(T):
        step = rate[:, t] / (1 + rate[:, t] * (k[:, t] ** 2).sum(-1, keepdim=True))
        for d in range(V):
            for n in range(K):
                forget = 1 - step[:, :, d] * k[:, t, :, n] ** 2
                assert bool(((forget >= 0) & (forget <= 1)).all())
                kept[:, :, d, n] = forget * kept[:, :, d, n] + step[:, :, d] * k[:, t, :, n] * v[:, t, :, d]
        assert_same(out[:, t], (kept * q[:, t, :, None]).sum(-1))
    assert_same(state["matrix"], kept)


@pytest.mark.parametrize("memory", [FULL, DIAGONAL], ids=["full", "diagonal"])
def test_long_keys_and_large_rates_do_not_blow_up(memory: mn.Memory) -> None:
    q, k, v, rate = inputs(500)
    given = 1e6 * (rate if memory is FULL else rate[..., None].expand_as(v))
    out, _ = mn.run(memory, q.float(), 1e3 * k.float(), v.float(), {"rate": given.float()})
    assert bool(torch.isfinite(out).all())
    assert float(out.abs().max()) < 10 * float(q.norm(dim=-1).max() * v.norm(dim=-1).max())


def test_other_choices_are_refused_by_name() -> None:
    for choices, named in (
        ({"structure": mn.MLP(depth=2)}, "MLP"),
        ({"objective": mn.Dot()}, "Dot"),
        ({"objective": mn.Huber(0.5)}, "Huber"),
    ):
        for memory in (FULL, DIAGONAL):
            with pytest.raises(InvalidValue, match=named):
                memory.replace(**choices)


@pytest.mark.parametrize("diagonal", [True, False])
def test_the_layer_in_closed_form(diagonal: bool) -> None:
    """The published block, token by token in plain arithmetic."""
    layer = mn.zoo.longhorn(diagonal=diagonal, state_dim=3).build(8, 2).double()
    assert isinstance(layer, LonghornLayer)
    with torch.no_grad():
        layer.conv_bias.normal_()
        layer.skip.normal_()
    u = torch.randn(1, 7, 8, dtype=torch.float64)
    y, _ = layer(u)
    x, z = (u @ layer.project.weight.T).chunk(2, -1)
    padded = torch.cat([torch.zeros(1, 3, 16, dtype=torch.float64), x], 1)
    x = sum(padded[:, i : i + 7] * layer.conv.weight[i] for i in range(4)) + layer.conv_bias
    x = x * torch.sigmoid(x)
    low, k, q = (x @ layer.select.weight.T).split([1, 3, 3], -1)
    b = torch.sigmoid(low @ layer.rate.weight.T + layer.rate.bias)
    state = torch.zeros(16, 3, dtype=torch.float64)
    for t in range(7):
        step = (b[0, t] / (1 + b[0, t] * (k[0, t] ** 2).sum())).expand(16)[:, None]
        asked = state * k[0, t] if diagonal else (state @ k[0, t])[:, None]
        state = state - step * (asked - x[0, t, :, None]) * k[0, t]
        o = state @ q[0, t] + layer.skip * x[0, t]
        assert_same(y[0, t], layer.out.weight @ (o * z[0, t] * torch.sigmoid(z[0, t])))
