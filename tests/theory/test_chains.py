"""Chains of weights: their derivatives by hand, to the second order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.execute.anchored_chunk import ChainChunk
from mnemos.lowering import run_rows
from mnemos.memory.objective import Huber

NETWORKS = [
    mn.MLP(activation=activation, residual=residual, norm=norm)
    for activation in ("gelu", "silu", "relu")
    for residual in (True, False)
    for norm in (True, False)
]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert float((found - expected).detach().abs().max()) <= tolerance


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_derivatives_between_and_behind_the_weights(network: mn.MLP) -> None:
    x, z, error, grad = (random(3, 5, 6) for _ in range(4))
    (slope,) = torch.autograd.grad(network.act(z).sum(), z, create_graph=True)
    assert_same(network.act_slope(z), slope)
    if network.activation != "relu":
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        assert_same(network.act_curvature(z), curvature)

    by_x, by_z = torch.autograd.grad(
        (network.end(x, z) * error).sum(), (x, z), create_graph=True, materialize_grads=True
    )
    assert_same(network.end_pullback(z, error), by_z)
    assert_same(error if network.residual else torch.zeros_like(error), by_x)
    by_z, by_error = torch.autograd.grad(
        (network.end_pullback(z, error) * grad).sum(), (z, error), materialize_grads=True
    )
    assert_same(network.end_pullback_slope(z, error, grad), by_z)
    assert_same(network.end_pullback(z, grad), by_error)  # symmetric
    with torch.no_grad():  # by other functions
        assert_same(network.end_pullback(z, grad), by_error)
        assert_same(network.end_pullback_slope(z, error, grad), by_z)


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("objective", [mn.L2(), Huber(None, form="norm")], ids=str)
@pytest.mark.parametrize("again", [False, True])
def test_second_derivatives_of_a_run(
    momentum: bool, objective: mn.L2, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chunks, the second one incomplete, from a state in the middle of a chunk; also where intermediates are made
    again."""
    if again:
        monkeypatch.setattr("mnemos.execute.recompute.KEPT", 0)
    memory = mn.Memory(mn.MLP(expansion=2), objective, mn.Decay(), mn.GD(momentum=momentum, anchor=mn.Chunk(2)))
    q, k, v = (random(1, 3, 1, 3) for _ in range(3))
    controls = {
        c.name: (0.3 + 0.5 * torch.rand(1, 3, 1, dtype=torch.float64)).requires_grad_() for c in memory.controls
    }
    weights = {n: w.double().requires_grad_() for n, w in memory.initial_weights(1, 3, 3).items()}

    def run(*tensors: Tensor) -> Tensor:
        q, k, v = tensors[:3]
        of_controls = dict(zip(controls, tensors[3 : 3 + len(controls)], strict=True))
        state = memory.init(1, 1, 3, 3, dict(zip(weights, tensors[3 + len(controls) :], strict=True)), torch.float64)
        first = {name: value[:, :1] for name, value in of_controls.items()}
        _, state = run_rows(memory, q[:, :1], k[:, :1], v[:, :1], first, state, plan="anchored dual")
        return run_rows(memory, q, k, v, of_controls, state, plan="anchored dual")[0]

    assert torch.autograd.gradgradcheck(run, (q, k, v, *controls.values(), *weights.values()), fast_mode=True)


def test_a_chunk_is_differentiated_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by autograd, which the rest would hide."""
    memory = mn.Memory(mn.MLP(expansion=2), mn.L2(), mn.Decay(), mn.GD(anchor=mn.Chunk(2)))
    called = []
    by_hand = ChainChunk.backward
    monkeypatch.setattr(ChainChunk, "backward", lambda *given: called.append(1) or by_hand(*given))
    q, k, v = (random(1, 6, 1, 4) for _ in range(3))
    controls = {c.name: torch.rand(1, 6, 1, dtype=torch.float64) for c in memory.controls}
    out, _ = mn.run(memory, q, k, v, controls, memory.initial_weights(1, 4, 4))
    out.sum().backward()
    assert len(called) == 3
