"""What features that are cosines and sines must satisfy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import FourierFeatures, FourierInput

WIDTH = 16


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def some_x(width: int = WIDTH) -> Tensor:
    return torch.randn(2, 9, width, dtype=torch.float64)


@pytest.mark.parametrize(("out", "share"), [(16, 0.25), (17, 0.125), (16, 0.5), (10, 0.0)])
@pytest.mark.parametrize("activation", [None, F.gelu])
def test_the_formula(out: int, share: float, activation: Any) -> None:
    features, x = FourierFeatures(WIDTH, out, share, activation).double(), some_x()
    periodic = int(share * out)
    angles = x @ features.linear.weight[:periodic].T + features.linear.bias[:periodic]
    rest = x @ features.linear.weight[periodic:].T + features.linear.bias[periodic:]
    found = features(x)
    rest = rest if activation is None else F.gelu(rest)
    assert_same(found, torch.cat([torch.cos(angles), torch.sin(angles), rest], -1))
    cosines, sines = found[..., :periodic], found[..., periodic : 2 * periodic]
    assert torch.allclose(cosines.square() + sines.square(), torch.ones_like(cosines), atol=1e-12)
    assert bool((found[..., : 2 * periodic].abs() <= 1).all())
    assert sum(p.numel() for p in features.parameters()) == (out - periodic) * (WIDTH + 1)


def test_a_sine_is_found_inside_an_interval_and_goes_on_outside() -> None:
    """sin(3 x + 1) by one layer and a linear map, which is fitted to x in [-2, 2] and right at 50."""
    features = FourierFeatures(1, 8, 0.25, F.gelu).double()
    features.linear.weight.data[0] = 3.0
    inside, outside = (torch.linspace(*ends, 200, dtype=torch.float64)[:, None] for ends in ((-2, 2), (40, 50)))
    fitted = torch.linalg.lstsq(features(inside), torch.sin(3 * inside + 1), driver="gelsd").solution
    assert_same(features(outside) @ fitted, torch.sin(3 * outside + 1), 1e-6)
    plain = FourierFeatures(1, 8, 0.0, F.gelu).double()  # a network of the same width
    fitted = torch.linalg.lstsq(plain(inside), torch.sin(3 * inside + 1), driver="gelsd").solution
    assert float((plain(outside) @ fitted - torch.sin(3 * outside + 1)).detach().abs().max()) > 1


def test_training_finds_the_period() -> None:
    """By gradient descent, from a start near it."""
    features, readout = FourierFeatures(1, 8, 0.25).double(), torch.nn.Linear(8, 1).double()
    features.linear.weight.data[0] = 2.7
    x = torch.linspace(-2, 2, 100, dtype=torch.float64)[:, None]
    optimiser = torch.optim.Adam([*features.parameters(), *readout.parameters()], lr=0.03)
    for _ in range(400):
        optimiser.zero_grad()
        (readout(features(x)) - torch.sin(3 * x)).square().mean().backward()
        optimiser.step()
    frequencies = features.linear.weight[:2, 0].detach().abs()
    assert float((frequencies - 3).abs().min()) < 0.05


def test_a_layer_sees_the_features_of_its_input() -> None:
    spec = mn.zoo.multi_query_attention()
    layer = FourierInput(spec).build(WIDTH, 2).double()
    inner = spec.build(WIDTH, 2).double()
    inner.load_state_dict(layer.layer.state_dict())
    x = some_x()
    y = x @ layer.features.linear.weight.T + layer.features.linear.bias
    assert y.shape[-1] == WIDTH - 2
    seen = torch.cat([torch.cos(y[..., :2]), torch.sin(y[..., :2]), y[..., 2:]], -1)
    assert_same(layer(x)[0], inner(seen)[0])


def test_without_periods_it_is_the_layer_behind_a_linear_map() -> None:
    spec = mn.zoo.transformer().pattern[0]
    layer, inner = (s.build(WIDTH, 2).double() for s in (mn.zoo.fanformer(share=0.0), spec))
    inner.load_state_dict(layer.layer.state_dict())
    x = some_x()
    assert_same(layer(x)[0], inner(layer.features.linear(x))[0])
    layer.features.linear.weight.data.copy_(torch.eye(WIDTH))
    layer.features.linear.bias.data.zero_()
    assert torch.equal(layer(x)[0], inner(x)[0])


def test_values_of_a_period_apart_are_the_same() -> None:
    """A token that stands for n and one for n + 2 pi / omega look alike to a layer that sees only sines."""
    layer = mn.zoo.fanformer(share=0.5).build(WIDTH, 2).double()
    x = some_x()
    turns = torch.full((WIDTH // 2, 1), 2 * math.pi, dtype=torch.float64)
    step = torch.linalg.lstsq(layer.features.linear.weight, turns).solution
    assert_same(layer(x + step[:, 0])[0], layer(x)[0], 1e-10)
    assert float(step.detach().abs().max()) > 1


def test_a_feed_forward_network_of_sines() -> None:
    spec = mn.ModelSpec(pattern=(mn.zoo.deltanet(),), width=WIDTH, depth=1, heads=2, ffn=2.0, feed_forward="fan")
    network, x = mn.LanguageModel(spec).double().get_submodule("blocks.0.ffn"), some_x()
    up, bias, down = network.parameters()
    assert up.shape == (24, WIDTH) and down.shape == (WIDTH, 32)  # three quarters of the hidden width
    y = x @ up.T + bias
    hidden = torch.cat([torch.cos(y[..., :8]), torch.sin(y[..., :8]), F.gelu(y[..., 8:])], -1)
    assert_same(network(x), hidden @ down.T)
    assert mn.zoo.fan().feed_forward == "fan"


def test_bad_options_are_named() -> None:
    for make in (FourierInput(mn.zoo.gla()).replace, lambda share: FourierFeatures(4, 4, share)):
        with pytest.raises(InvalidValue, match=r"share=\) lies from 0 to 0.5; got 0.6"):
            make(share=0.6)
    with pytest.raises(InvalidType, match="layer= takes a LayerDeclaration"):
        FourierInput(mn.Memory())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValue, match=r'is "swiglu" or "fan"; got .relu.'):
        mn.ModelSpec(pattern=(mn.zoo.gla(),), feed_forward="relu")  # pyright: ignore[reportArgumentType]
