"""What the relational memory core must satisfy (arXiv 1806.01822)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import RelationalMemory, RelationalMemoryLayer

B, T, D, H = 2, 6, 8, 2


def a_layer(width: int = D, heads: int = H, **options: Any) -> RelationalMemoryLayer:
    layer = RelationalMemory(**options).build(width, heads).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def slots_of(layer: RelationalMemoryLayer, x: Tensor) -> Tensor:
    return layer(x)[1].child("memory")["slots"]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def norm(x: Tensor, by: Any = None) -> Tensor:
    """Layer norm of a vector."""
    centred = x - x.mean()
    unit = centred / torch.sqrt(centred.square().mean() + 1e-5)
    return unit if by is None else unit * by.weight + by.bias


def literally(layer: RelationalMemoryLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's equations, row by row, the token's row asked like all others: (outputs, M) of a stream x (T, D)."""
    s, d, heads = layer.spec.slots, layer.width, layer.heads
    size = d // heads
    memory = torch.zeros(s, d, dtype=torch.float64)
    for i in range(min(s, d)):
        memory[i, i] = 1
    outputs = []
    for token in x:
        z = layer.enter.weight @ token + layer.enter.bias
        rows = [*memory, z]
        for block in layer.blocks:
            mixed: Any = block
            qkv = [norm(mixed.project.weight @ r + mixed.project.bias, mixed.project_norm) for r in rows]
            after = []
            for i, row in enumerate(rows):
                found = []
                for h in range(heads):
                    q = qkv[i][h * size : (h + 1) * size]
                    keys = torch.stack([y[d + h * size : d + (h + 1) * size] for y in qkv])
                    values = torch.stack([y[2 * d + h * size : 2 * d + (h + 1) * size] for y in qkv])
                    weights = torch.softmax(keys @ q / math.sqrt(size), 0)
                    assert len(weights) == s + 1 and abs(float(weights.detach().sum()) - 1) < 1e-12
                    found.append(values.T @ weights)
                row = norm(row + torch.cat(found), mixed.attended_norm)
                hidden = row
                for number, linear in enumerate(layer.mlp):
                    made: Any = linear
                    hidden = made.weight @ (hidden.relu() if number else hidden) + made.bias
                after.append(norm(row + hidden, mixed.mlp_norm))
            rows = after
        new = torch.stack(rows[:s])
        if layer.input_gates is not None and layer.memory_gates is not None:
            gates = (
                layer.input_gates.weight @ z + layer.input_gates.bias + torch.tanh(memory) @ layer.memory_gates.weight.T
            )
            i, f = gates[:, : gates.shape[1] // 2], gates[:, gates.shape[1] // 2 :]
            i, f = torch.sigmoid(i + layer.spec.input_bias), torch.sigmoid(f + layer.spec.forget_bias)
            new = i * torch.tanh(new) + f * memory
        memory = new
        outputs.append(layer.out.weight @ memory.flatten() + layer.out.bias)
    return torch.stack(outputs), memory


@pytest.mark.parametrize("gate", ["unit", "memory", None])
@pytest.mark.parametrize(("slots", "blocks", "mlp_layers"), [(3, 1, 2), (1, 2, 1), (10, 1, 3)])
def test_the_paper_s_equations(gate: str | None, slots: int, blocks: int, mlp_layers: int) -> None:
    """The literal form asks with the token's row too, and drops it: that changes nothing."""
    layer = a_layer(slots=slots, blocks=blocks, mlp_layers=mlp_layers, gate=gate, input_bias=0.2)
    x = torch.randn(B, T, D, dtype=torch.float64)
    y, state = layer(x)
    for b in range(B):
        expected, memory = literally(layer, x[b])
        assert_same(y[b], expected, 1e-10)
        assert_same(state.child("memory")["slots"][b], memory, 1e-10)


@pytest.mark.parametrize("slots", [1, 5, D, 11])
def test_it_starts_as_the_identity(slots: int) -> None:
    """Filled up with zeros, or cut off."""
    layer = a_layer(slots=slots)
    memory = layer.init_state(B).child("memory")["slots"]
    assert memory.shape == (B, slots, D)
    for s in range(slots):
        one_hot = torch.zeros(D, dtype=torch.float64)
        one_hot[s : s + 1] = 1
        assert torch.equal(memory[0, s], one_hot) and torch.equal(memory[1, s], one_hot)
    assert layer.out.in_features == slots * D


def test_closed_gates_keep_everything() -> None:
    layer = a_layer(slots=3, input_bias=-1e4, forget_bias=1e4)
    assert torch.equal(slots_of(layer, torch.randn(B, T, D, dtype=torch.float64))[0], torch.eye(3, D).double())


def test_without_gates_and_without_values_slots_are_only_normalised() -> None:
    """M~ = LN(LN(M)), whatever the token."""
    layer = a_layer(slots=3, gate=None)
    block: Any = layer.blocks[0]
    with torch.no_grad():
        block.project_norm.weight[2 * D :] = 0
        block.project_norm.bias[2 * D :] = 0
        for parameter in layer.mlp[-1].parameters():
            parameter.zero_()
    found = slots_of(layer, torch.randn(B, 1, D, dtype=torch.float64))
    for b in range(B):
        for s in range(3):
            row = torch.eye(3, D).double()[s]
            assert_same(found[b, s], norm(norm(row, block.attended_norm), block.mlp_norm))


def test_slots_differ_by_their_start_alone() -> None:
    layer = a_layer(slots=4)
    order = torch.tensor([2, 0, 3, 1])
    x = torch.randn(B, T, D, dtype=torch.float64)
    state = layer.init_state(B)
    memory = state.child("memory")
    turned = state.successor(memory=memory.successor(slots=memory["slots"][:, order]))
    assert_same(layer(x, turned)[1].child("memory")["slots"], slots_of(layer, x)[:, order])


def test_a_gate_a_slot_is_a_gate_an_element_with_tied_elements() -> None:
    unit, memory = a_layer(slots=3, gate="unit"), a_layer(slots=3, gate="memory")
    assert unit.input_gates is not None and unit.memory_gates is not None
    assert memory.input_gates is not None and memory.memory_gates is not None
    shared = {name: x for name, x in unit.state_dict().items() if "gates" not in name}
    memory.load_state_dict(shared | {n: x for n, x in memory.state_dict().items() if "gates" in n})
    with torch.no_grad():
        for one, other in ((unit.input_gates, memory.input_gates), (unit.memory_gates, memory.memory_gates)):
            one.weight.copy_(other.weight.repeat_interleave(D, 0))
        unit.input_gates.bias.copy_(memory.input_gates.bias.repeat_interleave(D))
    x = torch.randn(B, T, D, dtype=torch.float64)
    assert_same(slots_of(unit, x), slots_of(memory, x))


def test_a_slot_learns_of_a_token_through_the_other_slots() -> None:
    """What slot 0 holds after two tokens depends on what slot 1 held before them: the slots attend to each other."""
    layer = a_layer(slots=2)
    x = torch.randn(1, 2, D, dtype=torch.float64)
    state = layer.init_state(1)
    memory = state.child("memory")
    start = memory["slots"].clone().requires_grad_()
    _, after = layer(x, state.successor(memory=memory.successor(slots=start)))
    (gradient,) = torch.autograd.grad(after.child("memory")["slots"][0, 0].sum(), start)
    assert bool((gradient[0, 1].abs() > 1e-8).any())


def test_costs_are_counted() -> None:
    """A multiply and an add for every matrix entry and row, and the attention's two products."""
    layer = RelationalMemory(slots=3, blocks=2).build(D, H)
    rows, blocks = 4, 2
    matrices = blocks * rows * (3 * D * D + 2 * D * D) + D * D + 3 * D * D + 2 * D * D + 3 * 2 * D * D
    attention = blocks * 2 * rows * rows * D
    assert layer.flops(7) == 7 * 2 * (matrices + attention)
    assert "loop over tokens" in layer.explain(7)


def test_options_that_cannot_be() -> None:
    for given, message in (
        ({"slots": 0}, "at least 1"),
        ({"mlp_layers": 0}, "at least 1"),
        ({"gate": "row"}, '"unit"'),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            RelationalMemory(**given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(mn.MnemosError, match="multiple of heads"):
        RelationalMemory().build(9, 2)
    with pytest.raises(mn.MnemosError, match="number of tokens"):
        a_layer().explain(0)
