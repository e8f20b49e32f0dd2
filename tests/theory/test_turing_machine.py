"""What neural Turing machines must satisfy (arXiv 1410.5401): the addressing of their memory, and the layer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import TuringMachine, TuringMachineLayer
from mnemos.memory import Addressed

B, T, H, N, W = 2, 7, 2, 6, 4


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def head(name: str, strength: float, gate: float, shift: Any, sharpness: float, *lead: int) -> dict[str, Tensor]:
    """The same controls for every token of `lead` axes."""
    ones = torch.ones(*lead, dtype=torch.float64)
    moves = torch.as_tensor(shift, dtype=torch.float64).expand(*lead, -1)
    given = {"strength": strength * ones, "gate": gate * ones, "shift": moves, "sharpness": sharpness * ones}
    return {f"{name}_{kind}": value for kind, value in given.items()}


def weights_of(memory: Addressed, rows: Tensor, before: Tensor, key: Tensor, controls: dict[str, Tensor]) -> Tensor:
    """Weights (B, H, N) for one key (B, H, W)."""
    asked = {name: x[:, None] for name, x in controls.items()}
    return memory.address("read", rows, before, key[:, None], asked)[:, :, 0]


def somewhere() -> Tensor:
    return torch.softmax(2 * randn(B, H, N), -1)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


STAY, ON, BACK = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]


def test_addressing_is_written_out() -> None:
    """The paper's four equations, number by number."""
    memory = Addressed(N, shifts=2)
    rows, before, key = randn(B, H, N, W), somewhere(), randn(B, H, W)
    shift = torch.softmax(randn(5), 0)
    found = weights_of(memory, rows, before, key, head("read", 3.0, 0.7, shift, 2.5, B, H))
    for b in range(B):
        for h in range(H):
            m, k = rows[b, h].tolist(), key[b, h].tolist()

            def cosine(row: list[float], k: list[float] = k) -> float:
                dot = sum(x * y for x, y in zip(k, row, strict=True))
                return dot / math.sqrt(sum(x * x for x in k) * sum(x * x for x in row))

            content = [math.exp(3.0 * cosine(row)) for row in m]
            g = [0.7 * c / sum(content) + 0.3 * float(before[b, h, i]) for i, c in enumerate(content)]
            s = [sum(g[j] * float(shift[(i - j + 2) % N]) for j in range(N) if (i - j + 2) % N < 5) for i in range(N)]
            w = [x**2.5 for x in s]
            assert_same(found[b, h], torch.tensor(w, dtype=torch.float64) / sum(w))


def test_weights_are_a_distribution() -> None:
    memory = Addressed(N)
    q, k, v = (randn(B, T, H, W) for _ in range(3))
    controls = {
        c.name: torch.rand(B, T, H, *((3,) if c.per == "count" else ()), dtype=torch.float64) for c in memory.controls
    }
    controls |= {name: 1 + 3 * x for name, x in controls.items() if name.endswith("sharpness")}
    controls["erase"] = torch.rand(B, T, H, W, dtype=torch.float64)
    _, state = mn.run(memory, q, k, v, controls, weights={"rows": randn(H, N, W)})
    for name in ("write_weights", "read_weights"):
        assert bool((state[name] >= 0).all())
        assert_same(state[name].sum(-1), torch.ones(B, H, dtype=torch.float64))


def test_a_closed_gate_stays_or_moves() -> None:
    memory, rows, key = Addressed(N), randn(B, H, N, W), randn(B, H, W)
    before = somewhere()
    assert_same(weights_of(memory, rows, before, key, head("read", 5.0, 0.0, STAY, 1.0, B, H)), before)
    w = before
    for turn in range(N):
        w = weights_of(memory, rows, w, key, head("read", 5.0, 0.0, ON, 1.0, B, H))
        assert_same(w, before.roll(turn + 1, -1))
    assert_same(w, before)
    assert_same(weights_of(memory, rows, before, key, head("read", 5.0, 0.0, BACK, 1.0, B, H)), before.roll(-1, -1))


def test_content_from_no_strength_to_all_strength() -> None:
    memory, rows, key, before = Addressed(N), randn(B, H, N, W), randn(B, H, W), somewhere()
    uniform = torch.full((B, H, N), 1 / N, dtype=torch.float64)
    assert_same(weights_of(memory, rows, before, key, head("read", 0.0, 1.0, STAY, 1.0, B, H)), uniform)
    nearest = torch.nn.functional.cosine_similarity(key[:, :, None], rows, dim=-1).argmax(-1)
    one_hot = torch.nn.functional.one_hot(nearest, N).double()
    assert_same(weights_of(memory, rows, before, key, head("read", 1e6, 1.0, STAY, 1.0, B, H)), one_hot)
    longer = weights_of(memory, rows * 7, before, key * 3, head("read", 2.0, 1.0, STAY, 1.0, B, H))
    assert_same(longer, weights_of(memory, rows, before, key, head("read", 2.0, 1.0, STAY, 1.0, B, H)))


def test_endless_sharpness_is_the_largest() -> None:
    memory, rows, key, before = Addressed(N), randn(B, H, N, W), randn(B, H, W), somewhere()
    shift = torch.softmax(randn(3), 0)
    blunt = weights_of(memory, rows, before, key, head("read", 2.0, 0.5, shift, 1.0, B, H))
    sharp = weights_of(memory, rows, before, key, head("read", 2.0, 0.5, shift, 1e5, B, H))
    assert_same(sharp, torch.nn.functional.one_hot(blunt.argmax(-1), N).double(), 1e-9)
    twice = weights_of(memory, rows, before, key, head("read", 2.0, 0.5, 0.3 * shift, 2.0, B, H))
    assert_same(twice, blunt.square() / blunt.square().sum(-1, keepdim=True))  # whatever the shifts add up to


def test_sharpness_is_sound_in_single_precision_and_in_its_gradients() -> None:
    memory, rows, key = Addressed(N), randn(B, H, N, W).float(), randn(B, H, W).float()
    given = head("read", 30.0, 1.0, STAY, 60.0, B, H)
    controls = {name: x.float().clone().requires_grad_() for name, x in given.items()}
    before = torch.zeros(B, H, N)
    before[..., 0] = 1
    w = weights_of(memory, rows, before, key, controls)
    assert_same(w.sum(-1), torch.ones(B, H), 1e-5)
    for gradient in torch.autograd.grad(w[..., 0].sum(), list(controls.values()), allow_unused=True):
        assert gradient is not None and bool(torch.isfinite(gradient).all())


def write(memory: Addressed, rows: Tensor, v: Tensor, erase: float, moved: list[float]) -> Tensor:
    """Rows (1, H, N, W) after writing v at row 1, by the first row's head moved once."""
    state = memory.init(1, H, W, W, {"rows": rows[0]}, torch.float64)
    controls = head("write", 1.0, 0.0, moved, 1.0, 1, H) | {"erase": torch.full((1, H, W), erase, dtype=torch.float64)}
    return memory.write(state, randn(1, H, W), v, controls)["rows"]


def test_erasing_and_adding() -> None:
    memory, rows, v = Addressed(N), randn(1, H, N, W), randn(1, H, W)
    assert torch.equal(write(memory, rows, torch.zeros_like(v), 0.0, ON), rows)
    expected = rows.clone()
    expected[:, :, 1] = v
    assert_same(write(memory, rows, v, 1.0, ON), expected)
    expected[:, :, 1] = 0.75 * rows[:, :, 1] + v
    assert_same(write(memory, rows, v, 0.25, ON), expected)
    half = write(memory, rows, v, 1.0, [0.0, 0.5, 0.5])
    assert_same(half[:, :, :2], 0.5 * rows[:, :, :2] + 0.5 * v[:, :, None])
    assert torch.equal(half[:, :, 2:], rows[:, :, 2:])


def turned(order: Tensor, shift: list[float]) -> tuple[Tensor, Tensor]:
    """What is read in a run from rows in another order, and in the usual order."""
    memory, start = Addressed(N), randn(H, N, W)
    q, k, v = (randn(B, T, H, W) for _ in range(3))
    erase = {"erase": torch.full((B, T, H, W), 0.5, dtype=torch.float64)}
    controls = head("read", 4.0, 0.6, shift, 1.5, B, T, H) | head("write", 3.0, 0.6, shift, 1.5, B, T, H) | erase
    outs = []
    for turn in (order, torch.arange(N)):
        state = memory.init(B, H, W, W, {"rows": start[:, turn]}, torch.float64)
        moved = {name: state[name][:, :, turn] for name in ("write_weights", "read_weights")}
        outs.append(mn.run(memory, q, k, v, controls, state=state.successor(**state.entries | moved))[0])
    return outs[0], outs[1]


def test_only_shifts_know_where_rows_stand() -> None:
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert_same(*turned(order, STAY))
    one, other = turned(order, [0.2, 0.5, 0.3])
    assert float((one - other).abs().max()) > 1e-3
    assert_same(*turned(torch.arange(N).roll(2), [0.2, 0.5, 0.3]))  # a rotation of the rows goes unseen


def test_reading_before_or_after_the_write() -> None:
    """A first row that is replaced by v: read before, it is the old one."""
    q, k, v, start = randn(1, 1, H, W), randn(1, 1, H, W), randn(1, 1, H, W), randn(H, N, W)
    controls = head("read", 1.0, 0.0, STAY, 1.0, 1, 1, H) | head("write", 1.0, 0.0, STAY, 1.0, 1, 1, H)
    controls["erase"] = torch.ones(1, 1, H, W, dtype=torch.float64)
    for timing, expected in (("before", start[:, 0]), ("after", v[0, 0])):
        memory = Addressed(N, read_timing=timing)  # pyright: ignore[reportArgumentType]
        assert_same(mn.run(memory, q, k, v, controls, {"rows": start})[0][0, 0], expected)


def test_a_tape_is_copied_by_shifts_alone() -> None:
    """Writing while it moves on, then reading from the start: what the copy task asks for. The gate opens once, to go
    back to where a mark was written."""
    memory, length = Addressed(12), 8
    v, mark = randn(1, length, 1, W), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    v[..., 0] = 0
    tape = torch.cat([mark.view(1, 1, 1, W), v], 1)
    total = 2 * length + 1
    values = torch.cat([tape, torch.zeros(1, length, 1, W, dtype=torch.float64)], 1)
    controls = head("write", 0.0, 0.0, ON, 1.0, 1, total, 1) | head("read", 1e4, 0.0, ON, 1.0, 1, total, 1)
    controls["erase"] = torch.ones(1, total, 1, W, dtype=torch.float64)
    controls["erase"][:, length + 1 :] = 0
    controls = {name: x.clone() for name, x in controls.items()}
    controls["read_gate"][:, length + 1] = 1  # to the mark, and one on
    out, _ = mn.run(memory, mark.expand(1, total, 1, W).clone(), values, values, controls)
    assert_same(out[:, length + 1 :], v, 1e-9)


# The layer.


def a_layer(**options: Any) -> TuringMachineLayer:
    layer = TuringMachine(**{"slots": N, "hidden": 5, **options}).build(H * W, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("controller", ["lstm", "feedforward"])
def test_the_layer_is_a_controller_around_the_memory(controller: str) -> None:
    """The same numbers from PyTorch's own LSTM cell (or a tanh), and from `memory.step` with what the heads emit."""
    layer = a_layer(controller=controller)
    x = randn(B, T, H * W)
    y, state = layer(x)
    cell = torch.nn.LSTMCell(2 * H * W, 5).double()
    with torch.no_grad():
        if layer.again is not None:
            rows = torch.cat([torch.arange(0, 10), torch.arange(15, 20), torch.arange(10, 15)])  # i, f, g, o
            cell.weight_ih.copy_(torch.cat([layer.enter.weight, layer.feedback.weight], 1)[rows])
            cell.weight_hh.copy_(layer.again.weight[rows])
            cell.bias_ih.copy_(layer.enter.bias[rows])
            cell.bias_hh.zero_()
    tape = layer.memory.init(B, H, W, W, dict(layer.initial.items()), torch.float64)
    r, hc = torch.zeros(B, H * W, dtype=torch.float64), (torch.zeros(B, 5).double(), torch.zeros(B, 5).double())
    for t in range(T):
        if layer.again is not None:
            hc = cell(torch.cat([x[:, t], r], -1), hc)
            h = hc[0]
        else:
            h = torch.tanh(layer.enter(x[:, t]) + layer.feedback(r))
        q, k, v = ((h @ w.T + b).view(B, H, W) for w, b in zip(*_thirds(layer.project), strict=True))
        controls: dict[str, Tensor] = {}
        for name, rule in layer.controls.items():
            linear: Any = rule.linear
            raw = (h @ linear.weight.T + linear.bias).view(B, H, -1)
            kind = name.rsplit("_", 1)[-1]
            if kind == "shift":
                controls[name] = torch.softmax(raw, -1)
            elif kind == "strength":
                controls[name] = torch.log1p(raw.exp())[..., 0]
            elif kind == "sharpness":
                controls[name] = 1 + torch.log1p(raw.exp())[..., 0]
            else:
                controls[name] = torch.sigmoid(raw if kind == "erase" else raw[..., 0])
        found, tape = layer.memory.step(tape, q, k, v, controls)
        r = found.flatten(-2)
        assert_same(y[:, t], layer.out(torch.cat([h, r], -1)), 1e-10)
    assert_same(state.child("memory").child("tape")["rows"], tape["rows"], 1e-10)


def _thirds(linear: torch.nn.Linear) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return linear.weight.chunk(3), linear.bias.chunk(3)


def test_only_an_lstm_remembers_by_itself() -> None:
    layer = a_layer(controller="feedforward")
    assert "cell" not in layer.init_state(1).child("memory").entries
    with torch.no_grad():
        layer.feedback.weight.zero_()
        layer.out.weight[:, 5:] = 0  # what the controller says, not what was read
    x = randn(1, 4, H * W)
    assert_same(layer(x)[0][:, 3:], layer(x[:, 3:])[0])
    lstm = a_layer()
    assert float((lstm(x)[0][:, 3:] - lstm(x[:, 3:])[0]).detach().abs().max()) > 1e-4


def test_what_is_constant() -> None:
    layer = a_layer()
    sizes = {layer(randn(1, t, H * W))[1].nbytes for t in (1, 5)}
    assert sizes == {8 * (H * N * W + 2 * H * N + H * W + 2 * 5)}


def test_a_bare_memory_makes_a_layer() -> None:
    """Without a controller: all controls are made of the token."""
    layer = mn.MemoryLayer(Addressed(N), width=H * W, heads=H).double()
    y, _ = layer(randn(B, T, H * W))
    assert y.shape == (B, T, H * W) and bool(torch.isfinite(y).all())
    assert bool((layer.controls["write_sharpness"](randn(1, 2, H * W)) > 1).all())


def test_options_that_cannot_be() -> None:
    for kind, given, message in (
        (Addressed, {"slots": 0}, "at least 1"),
        (Addressed, {"shifts": -1}, "at least 0"),
        (Addressed, {"read_timing": "never"}, '"after" or "before"'),
        (TuringMachine, {"controller": "gru"}, '"lstm" or "feedforward"'),
        (TuringMachine, {"hidden": 0}, "at least 1"),
        (TuringMachine, {"slots": 0}, "at least 1"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            kind(**given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(mn.MnemosError, match="got 4 and 3"):
        Addressed().init(1, 1, 4, 3)
    for weights, message in (
        ({"matrix": randn(1, N, 4)}, "must name"),
        ({"rows": randn(1, N, 3)}, "must have shape"),
        ({"rows": torch.zeros(1, N, 4).long()}, "floating point"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            Addressed(N).init(1, 1, 4, 4, weights)
