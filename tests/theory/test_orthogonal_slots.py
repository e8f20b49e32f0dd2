"""Slots that only turn (Lattice, arXiv 2504.05646): the gradients of its losses, and what they keep."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.memory import OrthogonalSlots

B, T, H, M, D = 2, 13, 2, 4, 3
"""M slots of D channels."""


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tokens(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, time, H, M), normal(B, time, H, M), normal(B, time, H, D)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def lattice(objective: mn.Dot | mn.L2, unit: bool) -> mn.Memory:
    return mn.Memory(mn.Matrix(learned=True), objective, OrthogonalSlots(unit=unit), mn.GD())


def loss(kind: str, slots: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The paper's, of the slots themselves: they count by their directions."""
    directions = slots / slots.norm(dim=0)
    if kind == "decoding":
        return 0.5 * (directions @ k - v).square().sum()
    return -(directions @ k) @ v


OBJECTIVES = {"decoding": mn.L2(), "similarity": mn.Dot()}


@pytest.mark.parametrize("plan", ["loop", "reference"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("kind", ["decoding", "similarity"])
def test_steps_follow_the_gradient_by_the_slots(kind: str, unit: bool, plan: str) -> None:
    """S <- S - rate grad l(S), by autograd through the normalisation; then scaled to length 1."""
    q, k, v = tokens()
    rate = torch.rand(B, T, H, dtype=torch.float64)
    memory = lattice(OBJECTIVES[kind], unit)
    start = {"matrix": normal(H, D, M)}
    out, state = mn.run(memory, q, k, v, {"rate": rate}, start, plan=plan)
    first = memory.init(1, H, M, D, start, torch.float64)["matrix"]
    for b in range(B):
        for h in range(H):
            slots = first[0, h]
            for t in range(T):
                leaf = slots.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(kind, leaf, k[b, t, h], v[b, t, h]), leaf)
                assert float((slots * gradient).sum(0).abs().max()) < 1e-12  # orthogonal to every slot
                slots = slots - rate[b, t, h] * gradient
                slots = slots / slots.norm(dim=0) if unit else slots
                assert_same(slots / slots.norm(dim=0) @ q[b, t, h], out[b, t, h])
            assert_same(state["matrix"][b, h], slots)


def test_slots_keep_length_one() -> None:
    q, k, v = tokens()
    _, state = mn.run(lattice(mn.L2(), True), q, k, v, {"rate": torch.rand(B, T, H, dtype=torch.float64)})
    assert_same(state["matrix"].norm(dim=-2), torch.ones(B, H, M, dtype=torch.float64))


def test_free_slots_grow_by_the_square_of_every_step() -> None:
    """|s|^2 grows by exactly rate^2 |grad|^2, so that steps become smaller by themselves."""
    q, k, v = tokens(1)
    memory = lattice(mn.L2(), False)
    rate = torch.rand(B, 1, H, dtype=torch.float64)
    start = memory.init(B, H, M, D, None, torch.float64)
    before = start["matrix"].clone()
    _, after = mn.run(memory, q, k, v, {"rate": rate}, state=start)
    grown = after["matrix"].square().sum(-2) - before.square().sum(-2)
    assert_same(grown, (after["matrix"] - before).square().sum(-2))
    assert float(grown.min()) >= 0 and float(grown.max()) > 1e-3


def test_a_slot_that_already_points_at_the_value_stays() -> None:
    """Similarity, v along s_i and a code for slot i alone."""
    memory = lattice(mn.Dot(), True)
    start = memory.init(1, 1, M, D, None, torch.float64)
    k = torch.zeros(1, 1, 1, M, dtype=torch.float64)
    k[..., 1] = 1.0
    v = 3.0 * start["matrix"][:, None, :, :, 1]
    rate = torch.ones(1, 1, 1, dtype=torch.float64)
    _, state = mn.run(memory, k, k, v, {"rate": rate}, state=start)
    assert_same(state["matrix"], start["matrix"])
    _, state = mn.run(memory, k, k, v + normal(1, 1, 1, D), {"rate": rate}, state=start)
    assert float((state["matrix"] - start["matrix"]).abs().max()) > 0.01


def test_only_directions_count() -> None:
    """Slots c S answer as S does, and a step of c^2 times the rate turns them as far."""
    retention, scale = OrthogonalSlots(unit=False), 3.0
    slots, step = normal(B, H, D, M), normal(B, H, D, M)
    assert_same(retention.link(scale * slots), retention.link(slots))
    one, other = retention.combine(slots, step, {}), retention.combine(scale * slots, scale**2 * step, {})
    assert_same(retention.link(one), retention.link(other))


def test_a_small_step_is_a_step_on_the_sphere() -> None:
    """Scaling back to length 1 differs from the geodesic through the same tangent by a third order of the step."""
    retention = OrthogonalSlots()
    slots = F.normalize(normal(D, M), dim=0)
    step = normal(D, M)
    tangent = step - slots * (slots * step).sum(0)

    def error(size: float) -> float:
        angle = size * tangent.norm(dim=0)
        exact = slots * torch.cos(angle) + tangent / tangent.norm(dim=0) * torch.sin(angle)
        return float((retention.combine(slots, size * step, {}) - exact).abs().max())

    assert math.isclose(error(0.02) / error(0.01), 8.0, rel_tol=0.1)


def test_slots_start_apart() -> None:
    """Without given weights: unit vectors, first one way and then the other."""
    start = lattice(mn.L2(), True).init(1, 1, 2 * D, D, None, torch.float64)["matrix"][0, 0]
    eye = torch.eye(D, dtype=torch.float64)
    assert_same(start, torch.cat([eye, -eye], 1))


def test_the_learned_start_has_a_gradient() -> None:
    layer = mn.MemoryLayer(mn.zoo.lattice(), width=16, heads=2).double()
    layer(normal(1, 5, 16))[0].square().sum().backward()
    gradient = layer.initial["matrix"].grad
    assert gradient is not None and bool(gradient.any())
