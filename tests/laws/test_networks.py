"""Laws of networks that are no language models: what is declared is what is built, row by row, and it learns."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import NETWORKS
from torch import Tensor, nn

import mnemos as mn
from mnemos.models import NetworkDeclaration

ROWS = 3


def each_network() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)


def made(spec: NetworkDeclaration, batch: int = ROWS, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in float64 as it is used, dropout and noise off, and an example."""
    network = spec.build().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    inputs = spec.example(batch, torch.Generator().manual_seed(seed))
    return network, tuple(x.double() if x.is_floating_point() else x for x in inputs)


def tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    else:
        for part in found:
            yield from tensors(part)


@each_network()
def test_it_is_built_as_declared(spec: NetworkDeclaration) -> None:
    """The same seed gives the same weights; another, others."""
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        network = spec.build()
        assert network.spec == spec
        built.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(built[0], built[1]) and not torch.equal(built[0], built[2])


@each_network()
def test_an_example_is_drawn_from_its_generator(spec: NetworkDeclaration) -> None:
    one, same, other = (spec.example(ROWS, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    for x, y in zip(one, same, strict=True):
        assert x.shape[0] == ROWS and torch.equal(x, y)
    assert not all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@each_network()
def test_it_answers_twice_alike_and_leaves_its_input_alone(spec: NetworkDeclaration) -> None:
    network, inputs = made(spec)
    before = [x.clone() for x in inputs]
    first, again = list(tensors(network(*inputs))), list(tensors(network(*inputs)))
    for x, y in zip(first, again, strict=True):
        assert x.shape[0] == ROWS and torch.equal(x, y)
        assert x.isfinite().all()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@each_network()
def test_rows_of_a_batch_are_what_they_are_alone(spec: NetworkDeclaration) -> None:
    network, inputs = made(spec)
    together = list(tensors(network(*inputs)))
    for row in range(ROWS):
        alone = tensors(network(*(x[row : row + 1] for x in inputs)))
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[row : row + 1], one, rtol=1e-9, atol=1e-9)
    assert any(not torch.allclose(whole[:1], whole[1:2]) for whole in together)


@each_network()
def test_weights_are_saved_and_loaded(spec: NetworkDeclaration) -> None:
    """Into what the declaration's JSON form builds."""
    network, inputs = made(spec)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = mn.from_json(spec.to_json()).build().double().eval()
    assert any(not torch.equal(x, y) for x, y in zip(tensors(network(*inputs)), tensors(other(*inputs)), strict=True))
    other.load_state_dict(torch.load(file))
    for x, y in zip(tensors(network(*inputs)), tensors(other(*inputs)), strict=True):
        assert torch.equal(x, y)


@each_network()
def test_every_parameter_learns(spec: NetworkDeclaration) -> None:
    network, inputs = made(spec)
    answers = [x for x in tensors(network.train()(*inputs)) if x.requires_grad]
    torch.stack([x.square().sum() + x.sum() for x in answers]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert torch.isfinite(parameter.grad).all(), name
