"""MesaNet: the exact solution of least squares over everything seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.execute.conjugate_gradients import solve_all
from mnemos.lowering import lower
from mnemos.lowering.lower import Request
from mnemos.memory import LeastSquares

B, T, H, K, V = 2, 37, 2, 6, 5
MESA = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), LeastSquares())


def inputs(time: int = T, key_dim: int = K) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    q, k = (torch.randn(B, time, H, key_dim, dtype=torch.float64) for _ in range(2))
    v = torch.randn(B, time, H, V, dtype=torch.float64)
    controls = {
        "rate": torch.rand(B, time, H, dtype=torch.float64),
        "decay": torch.rand(B, time, H, dtype=torch.float64),
        "ridge": (0.1 + torch.rand(H, key_dim, dtype=torch.float64)).expand(B, time, H, key_dim),
    }
    return q, torch.nn.functional.normalize(k, dim=-1), v, controls


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def test_it_runs_by_conjugate_gradients() -> None:
    q, k, v, _ = inputs()
    assert lower(MESA, Request.of(q, k, v, True)).executor.name == "conjugate gradients"


def test_every_read_is_a_batch_ridge_regression() -> None:
    """Rows sqrt(z_ti) k_i beside sqrt(z_ti) v_i, and sqrt(ridge) e_n beside 0, by a least squares solver."""
    q, k, v, controls = inputs()
    out, _ = mn.run(MESA, q, k, v, controls)
    for b in range(B):
        for h in range(H):
            rate, decay, ridge = (controls[name][b, :, h] for name in ("rate", "decay", "ridge"))
            for t in range(T):
                z = torch.stack([rate[i] * decay[i + 1 : t + 1].prod() for i in range(t + 1)]).sqrt()[:, None]
                left = torch.cat([z * k[b, : t + 1, h], torch.diag(ridge[t].sqrt())])
                right = torch.cat([z * v[b, : t + 1, h], torch.zeros(K, V, dtype=torch.float64)])
                solution = torch.linalg.lstsq(left, right).solution
                assert_same(out[b, t, h], q[b, t, h] @ solution)


def test_an_endless_ridge_is_gated_linear_attention() -> None:
    q, k, v, controls = inputs()
    large = 1e9
    out, _ = mn.run(MESA, q, k, v, controls | {"ridge": torch.full_like(q, large)})
    linear = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD())
    expected, _ = mn.run(linear, q, k, v, {name: controls[name] for name in ("rate", "decay")})
    assert_same(large * out, expected, 1e-6)


def test_the_first_token_in_closed_form() -> None:
    """(R + b k k^T)^-1 by Sherman and Morrison: o = v b (k.R^-1 q) / (1 + b k.R^-1 k)."""
    q, k, v, controls = inputs(1)
    out, _ = mn.run(MESA, q, k, v, controls)
    b, asked, known = controls["rate"], q / controls["ridge"], k / controls["ridge"]
    share = b * (k * asked).sum(-1) / (1 + b * (k * known).sum(-1))
    assert_same(out, share[..., None] * v)


def test_without_forgetting_it_is_the_recursion_of_recursive_least_squares() -> None:
    """P_t = P_t-1 - P k k^T P / (1 / b + k.P k), M_t = M_t-1 + (v - M_t-1 k) (P_t k)^T b from P_0 = R^-1."""
    q, k, v, controls = inputs()
    mesa = MESA.replace(retention=mn.Keep())
    out, _ = mn.run(mesa, q, k, v, {name: controls[name] for name in ("rate", "ridge")})
    inverse = torch.diag_embed(1 / controls["ridge"][:, 0])
    memory = torch.zeros(B, H, V, K, dtype=torch.float64)
    for t in range(T):
        key, rate = k[:, t, :, :, None], controls["rate"][:, t, :, None, None]
        seen = inverse @ key
        inverse = inverse - seen @ seen.mT / (1 / rate + key.mT @ seen)
        memory = memory + rate * (v[:, t, :, :, None] - memory @ key) @ (inverse @ key).mT
        assert_same(out[:, t], (memory @ q[:, t, :, :, None])[..., 0])


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_equal_keys_and_extreme_decays(decay: float) -> None:
    """M_t(k) = mean of the values so far, shrunk by the ridge."""
    q, k, v, controls = inputs(200)
    k = k[:, :1].expand_as(k)
    controls = {
        "rate": torch.ones_like(controls["rate"]),
        "decay": torch.full_like(controls["decay"], decay),
        "ridge": torch.full_like(q, 0.01),
    }
    out, _ = mn.run(MESA, k, k, v, controls)
    count = torch.arange(1.0, 201.0, dtype=torch.float64)[:, None, None] if decay else 1.0
    assert_same(out, (v.cumsum(1) if decay else v) / (count + 0.01), 1e-9)


def test_a_long_and_badly_conditioned_past() -> None:
    """2000 keys near one another and a few others: condition numbers beyond 3000, solved as well as by Cholesky."""
    q, k, v, controls = inputs(2000, 16)
    k = torch.nn.functional.normalize(k[:, :1] + 0.05 * k, dim=-1)
    controls = controls | {
        "decay": torch.ones_like(controls["decay"]),
        "rate": torch.ones_like(controls["rate"]),
        "ridge": torch.full_like(q, 0.25),
    }
    with torch.no_grad():
        out, state = mn.run(MESA, q, k, v, controls)
        condition = torch.linalg.cond(state["gram"] + 0.25 * torch.eye(16, dtype=torch.float64))
        assert float(condition.min()) > 3000
        expected, _ = mn.run(MESA, q, k, v, controls, plan="loop")
        assert_same(out, expected, 1e-9)
        single = {name: value.float() for name, value in controls.items()}
        out, _ = mn.run(MESA, q.float(), k.float(), v.float(), single)
        assert_same(out.double(), expected, 1e-3)


def test_the_implicit_derivatives_and_theirs() -> None:
    size, channels = 5, 3
    k = torch.randn(2, size, channels, dtype=torch.float64)
    gram = torch.randn(2, channels, 4, dtype=torch.float64)
    arguments = [
        torch.randn(2, size, channels, dtype=torch.float64),
        gram @ gram.mT,
        k,
        torch.rand(2, size, dtype=torch.float64),
        torch.rand(2, size, size, dtype=torch.float64).tril(),
        0.5 + torch.rand(2, size, channels, dtype=torch.float64),
    ]
    for argument in arguments:
        argument.requires_grad_()

    def solved(*inputs: Tensor) -> Tensor:
        q, gram, keys, carry, write, ridge = inputs
        return solve_all(q, (gram + gram.mT) / 2, keys, carry, write, ridge)

    assert torch.autograd.gradcheck(solved, arguments)
    assert torch.autograd.gradgradcheck(solved, arguments)
    q, gram, keys, carry, write, ridge = arguments
    systems = (
        carry[..., None, None] * gram[:, None]
        + torch.einsum("btj,bjm,bjn->btmn", write, keys, keys)
        + torch.diag_embed(ridge)
    )
    assert_same(solved(*arguments), torch.linalg.solve(systems, q), 1e-11)


def test_other_choices_are_refused_by_name() -> None:
    for choices, named in (
        ({"structure": mn.MLP(depth=2)}, "MLP"),
        ({"structure": mn.Matrix(learned=True)}, "learned=True"),
        ({"objective": mn.Dot()}, "Dot"),
        ({"objective": mn.Huber(0.5)}, "Huber"),
        ({"retention": mn.Decay(per="channel")}, "channel"),
    ):
        with pytest.raises(InvalidValue, match=named):
            MESA.replace(**choices)
    q, k, v, controls = inputs()
    with pytest.raises(InvalidValue, match="ridge"):
        mn.run(MESA, q, k, v, controls | {"ridge": torch.zeros_like(q)})


def test_the_layer_starts_with_the_published_ridge() -> None:
    layer = mn.MemoryLayer(mn.zoo.mesanet(), width=16, heads=2)
    ridge = layer.controls["ridge"](torch.randn(1, 3, 16))
    assert torch.allclose(ridge, torch.ones(1, 3, 2, 8))
    with torch.no_grad():
        for parameter in layer.controls["ridge"].parameters():
            parameter.fill_(-100.0)
    assert torch.allclose(layer.controls["ridge"](torch.randn(1, 3, 16)), torch.tensor(0.25))
