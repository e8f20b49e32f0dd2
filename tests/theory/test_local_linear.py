"""Local linear attention (arXiv 2510.01450): a weighted regression by lines around every query, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.memory import LocalLinear

B, T, H, K, V = 2, 13, 2, 3, 4
UNIFORM = 1e-30
"""A scale at which all tokens weigh the same, wherever queries and keys lie."""


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tokens(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, time, H, K), normal(B, time, H, K), normal(B, time, H, V)


def ran(q: Tensor, k: Tensor, v: Tensor, ridge: float = 0.01, scale: float | None = None) -> Tensor:
    return mn.run(mn.KVMemory(read=LocalLinear(ridge, scale)), q, k, v)[0]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def softmax(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """p_tj of one head (T, K) -> (T, T), 0 for later tokens."""
    later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1)
    return (scale * q @ k.T).masked_fill(later, -torch.inf).softmax(-1)


@pytest.mark.parametrize(("ridge", "scale"), [(0.01, None), (0.3, 1.0), (10.0, 0.2)])
def test_every_answer_is_the_intercept_of_a_weighted_regression(ridge: float, scale: float | None) -> None:
    """argmin_b,W sum_j p_j |v_j - b - W (k_j - q)|^2 + ridge |W|^2 by a least squares solver."""
    q, k, v = tokens()
    out = ran(q, k, v, ridge, scale)
    for b in range(B):
        for h in range(H):
            p = softmax(q[b, :, h], k[b, :, h], K**-0.5 if scale is None else scale)
            for t in range(T):
                root = p[t, : t + 1, None].sqrt()
                lines = torch.cat([torch.ones_like(root), k[b, : t + 1, h] - q[b, t, h]], 1)
                slope = math.sqrt(ridge) * torch.eye(1 + K, dtype=torch.float64)[1:]
                left = torch.cat([root * lines, slope])
                right = torch.cat([root * v[b, : t + 1, h], torch.zeros(K, V, dtype=torch.float64)])
                assert_same(out[b, t, h], torch.linalg.lstsq(left, right).solution[0])


def test_the_published_weights() -> None:
    """s_j = w_j (1 - z_j . rho) / D with z_j = k_j - q, omega = sum w, mu = sum w z, rho = (sum w z z^T + ridge omega
    I)^-1 mu and D = omega - mu . rho: they sum to 1 and may be negative."""
    q, k, v = tokens()
    ridge, scale = 0.05, K**-0.5
    out, lowest = ran(q, k, v, ridge), 0.0
    for b in range(B):
        for h in range(H):
            for t in range(T):
                z = k[b, : t + 1, h] - q[b, t, h]
                w = torch.exp(scale * k[b, : t + 1, h] @ q[b, t, h])
                mu = w @ z
                spread = (z * w[:, None]).T @ z + ridge * w.sum() * torch.eye(K, dtype=torch.float64)
                rho = torch.linalg.solve(spread, mu)
                s = w * (1 - z @ rho) / (w.sum() - mu @ rho)
                assert_same(s.sum(), torch.ones((), dtype=torch.float64))
                assert_same(out[b, t, h], s @ v[b, : t + 1, h])
                lowest = min(lowest, float(s.min()))
    assert lowest < -0.01


def test_an_endless_ridge_is_softmax_attention() -> None:
    q, k, v = tokens()
    for scale in (None, 0.7):
        assert_same(ran(q, k, v, 1e12, scale), mn.run(mn.KVMemory(read=mn.Softmax(scale=scale)), q, k, v)[0])
    assert float((ran(q, k, v, 0.1) - mn.run(mn.KVMemory(), q, k, v)[0]).abs().max()) > 0.1


def test_softmax_attention_is_the_best_constant() -> None:
    """The gradient of sum_j p_j |v_j - b|^2 vanishes at its answer b, and every other answer is worse."""
    q, k, v = tokens()
    out, _ = mn.run(mn.KVMemory(), q, k, v)
    for t in range(T):
        p = softmax(q[0, :, 0], k[0, :, 0], K**-0.5)[t]
        best = out[0, t, 0].clone().requires_grad_()

        def lost(answer: Tensor, p: Tensor = p) -> Tensor:
            return (p[:, None] * (v[0, :, 0] - answer).square()).sum()

        (slope,) = torch.autograd.grad(lost(best), best)
        assert_same(slope, torch.zeros(V, dtype=torch.float64))
        assert lost(best + 0.1 * normal(V)) > lost(best)


def test_values_that_are_an_affine_function_of_their_keys_come_back_exactly() -> None:
    """At the query itself, wherever it lies, once there are more keys than channels; a constant cannot do that."""
    q, k, _ = tokens()
    slope, shift = normal(H, V, K), normal(H, V)
    v, expected = (torch.einsum("hvk,bthk->bthv", slope, x) + shift for x in (k, q))
    assert float((ran(q, k, v, 1e-9) - expected)[:, 2 * K :].abs().max()) < 1e-5
    assert float((mn.run(mn.KVMemory(), q, k, v)[0] - expected)[:, 2 * K :].abs().max()) > 0.5


def test_constant_values_are_given_back_and_the_first_token_its_own() -> None:
    """The weights sum to one, whatever the ridge."""
    q, k, v = tokens()
    for ridge in (1e-6, 0.01, 10.0):
        assert_same(ran(q, k, v[:, :1].expand_as(v), ridge), v[:, :1].expand_as(v), 1e-9)
        assert_same(ran(q, k, v, ridge)[:, 0], v[:, 0], 1e-8)


def test_uniform_weights_are_an_affine_ridge_regression() -> None:
    """o_t = A q_t + c of the regression of all values so far on their keys, an intercept beside the ridge's slope."""
    q, k, v = tokens()
    ridge = 0.2
    out = ran(q, k, v, ridge, UNIFORM)
    for t in range(T):
        keys, values = k[0, : t + 1, 0], v[0, : t + 1, 0]
        centred = keys - keys.mean(0)
        gram = centred.T @ centred / (t + 1) + ridge * torch.eye(K, dtype=torch.float64)
        slope = torch.linalg.solve(gram, centred.T @ (values - values.mean(0)) / (t + 1))
        assert_same(out[0, t, 0], values.mean(0) + (q[0, t, 0] - keys.mean(0)) @ slope)


def test_turning_queries_and_keys_together_changes_nothing() -> None:
    q, k, v = tokens()
    turn = torch.linalg.qr(normal(K, K)).Q
    assert_same(ran(q @ turn, k @ turn, v), ran(q, k, v))
    assert float((ran(q @ turn, k, v) - ran(q, k, v)).abs().max()) > 0.1


def test_with_a_fixed_kernel_shifting_queries_and_keys_together_changes_nothing() -> None:
    """Only k_j - q_t counts in the regression."""
    q, k, v = tokens()
    shift = normal(K)
    assert_same(ran(q + shift, k + shift, v, 0.2, UNIFORM), ran(q, k, v, 0.2, UNIFORM))
    assert float((ran(q, k + shift, v, 0.2, UNIFORM) - ran(q, k, v, 0.2, UNIFORM)).abs().max()) > 0.1


def test_a_number_added_to_all_scores_changes_nothing() -> None:
    """The ridge is relative to the sum of the weights."""
    read = LocalLinear(0.3)
    q, keys, values = normal(1, 1, 5, K), normal(1, 1, 7, K), normal(1, 1, 7, V)
    seen, lag = torch.ones(1, 1, 5, 7, dtype=torch.bool), torch.zeros(1, 1, 5, 7, dtype=torch.int64)
    scores = q @ keys.mT
    one, other = (read.answer(read.weigh(s, seen, lag, {}), q, keys, values, lag, {}) for s in (scores, scores + 50))
    assert_same(one, other)


def test_derivatives() -> None:
    q, k, v = (x[:1, :5, :1].clone().requires_grad_() for x in tokens())
    assert torch.autograd.gradcheck(lambda *x: ran(*x, ridge=0.1), (q, k, v))
