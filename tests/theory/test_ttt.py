"""Test-time training: mini-batches of inner steps, layer normalisation inside the memory, the published dual form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import TTTLayer
from mnemos.lowering import lower
from mnemos.lowering.lower import Request
from mnemos.memory import AffineL2, MiniBatch, NormedMLP

B, T, H, K = 2, 37, 2, 6


def inputs(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))  # pyright: ignore


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    error = float((one - other).detach().abs().max())
    assert error <= tolerance * max(1.0, float(other.detach().abs().max())), error


def test_it_runs_by_the_dual_form() -> None:
    q, k, v = inputs()
    for depth in (1, 2):
        memory = mn.Memory(NormedMLP(depth=depth), AffineL2(), mn.Keep(), MiniBatch(16))
        assert lower(memory, Request.of(q, k, v, True)).executor.name == "mini-batch dual"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pullbacks_are_derivatives_by_finite_differences(depth: int) -> None:
    """Through the normalisation (kernel of the inner gradient), the activations and the biases."""
    network = NormedMLP(depth=depth, expansion=2)
    shapes = network.shapes(K, K - 1)
    weights = {n: torch.randn(1, H, *shape, dtype=torch.float64) for n, shape in shapes.items()}
    x, error = torch.randn(1, H, 1, K, dtype=torch.float64), torch.randn(1, H, 1, K - 1, dtype=torch.float64)
    trace = network.trace(weights, x)
    outputs = trace.pullback(error)
    for name, weight in weights.items():
        by_hand = outputs[name].mT @ trace.inputs[name]
        direction, small = torch.randn_like(weight), 1e-6
        either = [
            (network.trace(weights | {name: weight + sign * small * direction}, x).prediction * error).sum()
            for sign in (1, -1)
        ]
        assert_same((by_hand * direction).sum(), (either[0] - either[1]) / (2 * small), 1e-6)
    assert_same(trace.prediction, network.forward(lambda name, h: h @ weights[name].mT, x))


def test_the_inner_gradient_of_the_norm_in_the_published_form() -> None:
    """d loss / d z = (D g - sum g - x sum(g x)) / (D std), g = gain (gain x + shift - target)."""
    z, gain, shift, target = (torch.randn(K, dtype=torch.float64) for _ in range(4))
    std = (z.var(unbiased=False) + 1e-6).sqrt()
    unit = (z - z.mean()) / std
    g = AffineL2().slope(unit, target, {"gain": gain, "shift": shift})
    expected = (K * g - g.sum() - unit * (g * unit).sum()) / (K * std)
    network = NormedMLP()
    weights = {"layer1": torch.zeros(K, K, dtype=torch.float64), "bias1": z[:, None]}
    trace = network.trace(weights, torch.randn(1, K, dtype=torch.float64))
    assert_same(trace.prediction[0], unit)
    assert_same(trace.pullback(g[None])["bias1"][0], expected)


def test_a_scale_of_one_is_an_anchored_gradient_step() -> None:
    q, k, v = inputs()
    network = mn.MLP(depth=2, expansion=2)
    batches = mn.Memory(network, mn.L2(), mn.Keep(), MiniBatch(4))
    anchored = batches.replace(learner=mn.GD(anchor=mn.Chunk(4)))
    weights = {n: w.double() for n, w in batches.initial_weights(H, K, K).items()}
    rate = 0.2 * uniform(B, T, H)
    one, _ = mn.run(batches, q, k, v, {"rate": rate, "scale": torch.ones_like(rate)}, weights)
    other, _ = mn.run(anchored, q, k, v, {"rate": rate}, weights)
    assert_same(one, other)


def test_one_token_a_batch_on_a_matrix_is_the_delta_rule() -> None:
    q, k, v = inputs()
    k = F.normalize(k, dim=-1)
    rate = uniform(B, T, H)
    single = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), MiniBatch(1))
    scale = 0.5 + uniform(B, T, H)
    one, _ = mn.run(single, q, k, v, {"rate": rate, "scale": scale})
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD())
    assert_same(one, mn.run(delta, q, k, v, {"rate": rate * scale})[0])


def test_one_batch_on_a_matrix_of_zeros_is_linear_attention() -> None:
    """Theorem 1 of the paper, a rate of 1 for half the squared error."""
    q, k, v = inputs()
    ones = torch.ones(B, T, H, dtype=torch.float64)
    memory = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), MiniBatch(T))
    out, _ = mn.run(memory, q, k, v, {"rate": ones, "scale": ones})
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    assert_same(out, torch.einsum("bhts,bshv->bthv", scores, v))


def test_a_scale_of_zero_freezes_the_memory() -> None:
    q, k, v = inputs()
    memory = mn.Memory(NormedMLP(depth=2), mn.L2(), mn.Keep(), MiniBatch(4))
    weights = {n: w.double() for n, w in memory.initial_weights(H, K, K).items()}
    rate = uniform(B, T, H)
    out, state = mn.run(memory, q, k, v, {"rate": rate, "scale": torch.zeros_like(rate)}, weights)
    for name, weight in weights.items():
        assert_same(state[name], weight.expand(B, *weight.shape))
    assert_same(out, memory.structure.forward(lambda n, h: h @ weights[n].mT, q.transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp"])
def test_the_layer_is_the_published_dual_form(name: str) -> None:
    """Three mini-batches, the last one short, of one head, in row vectors: eta[t, i] = tok_t eta_i for i <= t,

    b~ = b - tril(eta) G,   Z~ = Q W - (eta * tril(Q K^T)) G + b~;   W -= (eta_last * K)^T G,   b -= eta_last^T G
    """
    size, width, step = 4, 8, 0.7
    layer = getattr(mn.zoo, name)(chunk=size, step=step).build(width, 1).double()
    assert isinstance(layer, TTTLayer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        layer.place[2] = -2.0  # a token factor that the clamp takes to zero
    x = torch.randn(1, 11, width, dtype=torch.float64)
    y, _ = layer(x)

    def convolved(z: Tensor, taps: Tensor) -> Tensor:
        padded = torch.cat([torch.zeros(3, width, dtype=torch.float64), z])
        return sum(padded[i : i + len(z)] * taps[i] for i in range(4))  # pyright: ignore

    def turned(z: Tensor) -> Tensor:
        place = torch.arange(len(z), dtype=torch.float64) % size
        angle = place[:, None] * 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
        both = torch.complex(z[:, : width // 2], z[:, width // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([both.real, both.imag], -1)

    def norm(z: Tensor) -> Tensor:
        return (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    def gelu(z: Tensor) -> Tensor:
        return F.gelu(z, approximate="tanh")

    shared = layer.shared(x[0])
    all_q, all_k = (turned(convolved(shared, layer.conv.weight[:, i * width : (i + 1) * width])) for i in (0, 1))
    target = layer.values(x[0]) - all_k
    eta = step * torch.sigmoid(layer.rate(x[0]))[:, 0] / width
    token = (1 / torch.arange(1, size + 1, dtype=torch.float64) + layer.place).clamp(min=0)
    matrices = [layer.initial[f"layer{i + 1}"][0].T for i in range(len(layer.initial) // 2)]
    biases = [layer.initial[f"bias{i + 1}"][0].T for i in range(len(layer.initial) // 2)]
    outputs = []
    for start in range(0, 11, size):
        rows = slice(start, min(start + size, 11))
        q, k = all_q[rows], all_k[rows]
        steps = (token[: len(q), None] * eta[rows]).tril()
        hidden, sums = [k], []
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            sums.append((gelu(sums[-1]) if i else k) @ matrix + bias)
            hidden.append(gelu(sums[-1]))
        losses = (0.5 * (layer.gain[0] * norm(sums[-1]) + layer.shift[0] - target[rows]) ** 2).sum()
        gradients = torch.autograd.grad(losses, sums, retain_graph=True)
        z = q
        for i, gradient in enumerate(gradients):
            inner = z if i == 0 else gelu(z)
            z = inner @ matrices[i] - (steps * (inner @ hidden[i].T).tril()) @ gradient + biases[i] - steps @ gradient
        outputs.append(q + layer.gain[0] * norm(z) + layer.shift[0])
        last = steps[-1]
        matrices = [m - (last[:, None] * h).T @ g for m, h, g in zip(matrices, hidden, gradients, strict=False)]
        biases = [b - last @ g for b, g in zip(biases, gradients, strict=True)]
    z = F.layer_norm(torch.cat(outputs), (width,), layer.norm.weight, layer.norm.bias, 1e-6)
    assert_same(y[0], layer.out(z * gelu(layer.gate(x[0]))))


def test_the_rate_and_the_token_factor_start_as_published() -> None:
    layer = mn.zoo.ttt_linear().build(32, 2)
    assert isinstance(layer, TTTLayer)
    assert layer.size == 16 and not layer.place.any() and not layer.rate.bias.any()
    assert float(layer.gain.detach().min()) == 1 and not layer.shift.any()
    assert (
        math.isclose(float(layer.initial["layer1"].detach().std()), 0.02, rel_tol=0.3)
        and not layer.initial["bias1"].any()
    )


def test_other_choices_are_refused_by_name() -> None:
    batches = mn.Memory(NormedMLP(), AffineL2(), mn.Keep(), MiniBatch(4))
    for choices, named in (
        ({"retention": mn.Decay()}, "Keep"),
        ({"read_timing": "before"}, "after"),
        ({"learner": mn.GD(), "retention": mn.Decay(per="channel")}, "per='channel'"),
    ):
        with pytest.raises(InvalidValue, match=named):
            batches.replace(**choices)
