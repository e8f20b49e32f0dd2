"""The Omega rule, Muon's orthogonal steps and polynomial features (Atlas, arXiv 2505.23735)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import Polynomial
from mnemos.memory import Omega, Structure
from mnemos.memory.learner.omega import orthogonal

B, T, H, K, V = 2, 17, 2, 4, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def tokens(time: int = T, value_dim: int = V) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, time, H, K), F.normalize(normal(B, time, H, K), dim=-1), normal(B, time, H, value_dim)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def matrix(**learner: object) -> mn.Memory:
    return mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="head"), Omega(**learner))  # pyright: ignore


def controls(window: int, time: int = T) -> dict[str, Tensor]:
    return {
        "rate": uniform(B, time, H) / window,
        "decay": 0.5 + 0.5 * uniform(B, time, H),
        "window": uniform(B, time, H, window),
    }


@pytest.mark.parametrize("structure", [mn.Matrix(), mn.MLP(depth=2, expansion=2)], ids=str)
@pytest.mark.parametrize("momentum", [False, True])
def test_a_window_of_one_is_titans(structure: Structure, momentum: bool) -> None:
    q, k, v = tokens(value_dim=K)
    given = controls(1) | ({"momentum": uniform(B, T, H)} if momentum else {})
    one = mn.Memory(structure, mn.L2(), mn.Decay(), Omega(window=1, momentum=momentum))
    titans = one.replace(learner=mn.GD(momentum=momentum, anchor="previous"))
    weights = {n: w.double() for n, w in one.initial_weights(H, K, K).items()}
    out, _ = mn.run(one, q, k, v, given, weights)
    gate = given.pop("window")[..., 0]
    assert_same(out, mn.run(titans, q, k, v, given | {"rate": given["rate"] * gate}, weights)[0])


def test_only_the_token_itself_is_gated_open_is_the_delta_rule() -> None:
    q, k, v = tokens()
    given = controls(5)
    given["window"] = torch.zeros(B, T, H, 5, dtype=torch.float64)
    given["window"][..., 0] = 1.0
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(anchor="previous"))
    out, _ = mn.run(matrix(window=5), q, k, v, given)
    del given["window"]
    assert_same(out, mn.run(delta, q, k, v, given)[0])


@pytest.mark.parametrize("plan", ["loop", "reference"])
@pytest.mark.parametrize("window", [1, 2, 5, 30])
def test_the_sum_over_the_window_written_out(window: int, plan: str) -> None:
    """M_t = M_t-1 (a I - sum_i e_ti k_i k_i^T) + sum_i e_ti v_i k_i^T over the last pairs, also for a window that the
    sequence never fills."""
    q, k, v = tokens()
    given = controls(window)
    out, _ = mn.run(matrix(window=window), q, k, v, given, plan=plan)
    for b in range(B):
        for h in range(H):
            m = torch.zeros(V, K, dtype=torch.float64)
            for t in range(T):
                transition = given["decay"][b, t, h] * torch.eye(K, dtype=torch.float64)
                written = torch.zeros(V, K, dtype=torch.float64)
                for i in range(min(window, t + 1)):
                    share = given["rate"][b, t, h] * given["window"][b, t, h, i]
                    key, value = k[b, t - i, h], v[b, t - i, h]
                    transition = transition - share * torch.outer(key, key)
                    written = written + share * torch.outer(value, key)
                m = m @ transition + written
                assert_same(m @ q[b, t, h], out[b, t, h])


def test_the_window_reaches_across_calls() -> None:
    q, k, v = tokens()
    given = controls(6)
    memory = matrix(window=6)
    whole, last = mn.run(memory, q, k, v, given)
    state, outputs = None, []
    for start, end in ((0, 2), (2, 3), (3, 12), (12, T)):
        part = {n: c[:, start:end] for n, c in given.items()}
        out, state = mn.run(memory, q[:, start:end], k[:, start:end], v[:, start:end], part, state=state)
        outputs.append(out)
    assert_same(torch.cat(outputs, 1), whole)
    assert state is not None
    assert_same(state["window.keys"], last["window.keys"])
    assert_same(last["window.keys"], k[:, -5:].transpose(1, 2))


# Muon


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5)])
def test_orthogonal_steps_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    left, right = torch.linalg.qr(normal(shape[0], shape[0]))[0], torch.linalg.qr(normal(shape[1], shape[1]))[0]
    rank = min(shape)
    values = 0.1 + 0.9 * uniform(rank)
    x = left[:, :rank] @ torch.diag(values) @ right[:, :rank].mT
    made = orthogonal(x, 5)
    found = torch.linalg.svdvals(made)
    assert float(found.min()) > 0.65 and float(found.max()) < 1.2
    assert float(made.norm()) <= 1.2 * math.sqrt(rank)


def test_orthogonal_steps_forget_scale_and_follow_rotations() -> None:
    """NS(c S) = NS(S), NS(U S V^T) = U NS(S) V^T, NS(S^T) = NS(S)^T, and nothing stays nothing."""
    x = normal(2, 3, 5)
    made = orthogonal(x, 5)
    assert_same(orthogonal(7.0 * x, 5), made, 1e-9)
    u, v = torch.linalg.qr(normal(3, 3))[0], torch.linalg.qr(normal(5, 5))[0]
    assert_same(orthogonal(u @ x @ v.mT, 5), u @ made @ v.mT)
    assert_same(orthogonal(x.mT, 5), made.mT)
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    out = orthogonal(zero, 5)
    (gradient,) = torch.autograd.grad(out.sum(), zero)
    assert not out.any() and torch.isfinite(gradient).all()


def test_orthogonal_steps_are_the_quintic_of_the_singular_values() -> None:
    x = normal(3, 5)
    u, values, vt = torch.linalg.svd(x, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    assert_same(orthogonal(x, 5), u @ torch.diag(values) @ vt, 1e-9)


def test_atlas_written_out_for_one_head() -> None:
    """S_t = h S_t-1 - sum g grad, M_t = a M_t-1 + r NS(S_t), with NS by singular values."""
    window = 3
    q, k, v = tokens(9)
    given = controls(window, 9) | {"momentum": uniform(B, 9, H)}
    out, _ = mn.run(matrix(window=window, momentum=True, muon=5), q, k, v, given)
    m, s = torch.zeros(V, K, dtype=torch.float64), torch.zeros(V, K, dtype=torch.float64)
    for t in range(9):
        gradient = torch.zeros(V, K, dtype=torch.float64)
        for i in range(min(window, t + 1)):
            key, value = k[0, t - i, 0], v[0, t - i, 0]
            gradient = gradient + given["window"][0, t, 0, i] * torch.outer(m @ key - value, key)
        s = given["momentum"][0, t, 0] * s - gradient
        u, values, vt = torch.linalg.svd(s, full_matrices=False)
        values = values / values.norm()
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        m = given["decay"][0, t, 0] * m + given["rate"][0, t, 0] * (u @ torch.diag(values) @ vt)
        assert_same(m @ q[0, t, 0], out[0, t, 0], 1e-8)


def test_the_scale_of_the_values_does_not_change_the_size_of_an_orthogonal_step() -> None:
    q, k, v = tokens(1)
    given = controls(1, 1)
    memory = matrix(window=1, muon=5)
    small, large = (mn.run(memory, q, k, c * v, given)[1]["matrix"] for c in (1.0, 100.0))
    assert_same(small, large, 1e-9)


# Polynomial features


@pytest.mark.parametrize("coefficients", [(1.0, 1.0, 0.5), (0.0, 1.0), (0.3, 0.0, 0.0, 0.7), (2.0,), (0, 0, 0, 0, 1)])
def test_the_kernel_is_the_polynomial(coefficients: tuple[float, ...]) -> None:
    q, k = normal(3, 6, K), normal(3, 6, K)
    features = Polynomial(coefficients)
    assert features(q).shape[-1] == features.width(K)
    kernel = (features(q) * features(k)).sum(-1)
    dot = (q * k).sum(-1)
    assert_same(kernel, sum((a * dot**i for i, a in enumerate(coefficients)), torch.zeros_like(dot)))


def test_degree_one_alone_leaves_keys_as_they_are() -> None:
    x = normal(2, 3, K)
    assert torch.equal(Polynomial((0.0, 1.0))(x), x)


def test_each_monomial_comes_once() -> None:
    assert Polynomial().width(16) == math.comb(16 + 2, 2)
    assert Polynomial((1.0, 1.0, 0.5, 1 / 6)).width(5) == math.comb(5 + 3, 3)


def test_unit_features_have_length_one() -> None:
    features = Polynomial(unit=True)
    q, k = normal(3, 6, K), normal(3, 6, K)
    assert_same(features(q).norm(dim=-1), torch.ones(3, 6, dtype=torch.float64))
    dot = (F.normalize(q, dim=-1) * F.normalize(k, dim=-1)).sum(-1)
    assert_same((features(q) * features(k)).sum(-1), (1 + dot + dot**2 / 2) / 2.5)


def test_features_store_more_pairs_than_channels() -> None:
    """As many random pairs as degree-2 features of 4 channels are learnt exactly; the 4 channels alone cannot."""
    count = Polynomial().width(K)
    k, v = normal(1, count, 1, K), normal(1, count, 1, V)
    for keys, fits in ((Polynomial()(k), True), (k, False)):
        held = torch.linalg.lstsq(keys[0, :, 0], v[0, :, 0]).solution
        assert (float((keys[0, :, 0] @ held - v[0, :, 0]).abs().max()) < 1e-6) == fits


def test_bad_polynomials() -> None:
    for wrong in ((), (0.0,), (-1.0, 1.0), (math.inf,)):
        with pytest.raises(InvalidValue, match="coefficients"):
            Polynomial(wrong)
    with pytest.raises(InvalidType, match="coefficients"):
        Polynomial(2)  # pyright: ignore


def test_bad_windows() -> None:
    for wrong in ({"window": 0}, {"rate": -1.0}, {"muon": -1}):
        with pytest.raises(InvalidValue, match="Omega"):
            Omega(**wrong)  # pyright: ignore
    with pytest.raises(InvalidValue, match="objective with constants"):
        mn.Memory(mn.Matrix(), mn.Huber(None), mn.Keep(), Omega())
