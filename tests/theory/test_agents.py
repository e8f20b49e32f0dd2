"""What attention through agents must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import Agents, AgentsLayer
from mnemos.layers.agents import MEMORY

B, T, WIDTH, H = 2, 40, 12, 2
K = WIDTH // H


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def built(agents: int = 3, conv: int | None = None) -> AgentsLayer:
    """A layer whose output is the heads side by side."""
    layer = Agents(agents, conv).build(WIDTH, H).double()
    layer.out.weight.data.copy_(torch.eye(WIDTH))
    return layer


def some_x() -> Tensor:
    return torch.randn(B, T, WIDTH, dtype=torch.float64)


def projected(layer: AgentsLayer, x: Tensor) -> list[Tensor]:
    """q, k, v (B, H, T, K)."""
    return [y.unflatten(-1, (H, -1)).transpose(1, 2) for y in layer.project(x).chunk(3, -1)]


def causal(scores: Tensor) -> Tensor:
    """The softmax over the last axis of scores (..., T, n, T) that stops at token t."""
    later = torch.ones(T, T).triu(1).bool()[:, None]
    return torch.softmax(scores.masked_fill(later, -torch.inf), -1)


def dense(layer: AgentsLayer, x: Tensor) -> Tensor:
    """Two softmaxes: the agents over the tokens up to t, token t over the agents. (B, T, width)."""
    q, k, v = projected(layer, x)
    agents = layer.agents
    heard = causal((agents @ k.mT / math.sqrt(K))[:, :, None].expand(-1, -1, T, -1, -1))  # (B, H, T, n, T)
    read = heard @ v[:, :, None]
    shares = torch.softmax(q @ agents.mT / math.sqrt(K), -1)
    return (shares[..., None, :] @ read)[..., 0, :].transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("agents", [1, 3, 7])
def test_two_softmaxes(agents: int) -> None:
    layer, x = built(agents), some_x()
    assert_same(layer(x)[0], dense(layer, x))


def test_the_convolution_of_the_values_is_added() -> None:
    layer, x = built(conv=3), some_x()
    assert layer.conv is not None
    values = layer.project(x)[..., 2 * WIDTH :]
    past = torch.cat([torch.zeros(B, 2, WIDTH, dtype=torch.float64), values], 1)
    local = sum(past[:, i : i + T] * layer.conv.weight[i] for i in range(3))
    assert isinstance(local, Tensor)
    assert_same(layer(x)[0], dense(layer, x) + local)


def test_it_is_linear_attention() -> None:
    """o_t = sum_j phi(q_t) . psi_t(k_j) v_j, phi = softmax(q a), psi_t(k) = exp(a k) / sum_{i <= t} exp(a k_i)."""
    layer, x = built(), some_x()
    q, k, v = projected(layer, x)
    asking = torch.softmax(q @ layer.agents.mT / math.sqrt(K), -1)
    told = torch.exp(k @ layer.agents.mT / math.sqrt(K))
    scores = torch.einsum("bhtn,bhjn,bhtn->bhtj", asking, told, 1 / told.cumsum(2)).tril()
    assert_same(scores.sum(-1), torch.ones(B, H, T, dtype=torch.float64))
    assert_same(layer(x)[0], (scores @ v).transpose(1, 2).flatten(-2))


def test_equal_values_come_back() -> None:
    layer = built()
    x = some_x()
    layer.project.weight.data[2 * WIDTH :, 1:] = 0
    x[..., 0] = 1.0
    assert_same(layer(x)[0], layer.project.weight[2 * WIDTH :, 0].expand(B, T, WIDTH))


def test_a_single_agent_answers_all_queries_alike() -> None:
    layer, x = built(1), some_x()
    before = layer(x)[0]
    layer.project.weight.data[:WIDTH].normal_()
    assert_same(layer(x)[0], before)


def test_queries_that_are_agents_get_full_attention() -> None:
    """Far out on an agent's axis a query reads that agent alone: softmax attention with the agent as its query."""
    layer = built(K)
    layer.agents.data.copy_(3 * torch.eye(K).expand(H, K, K))
    x = torch.nn.functional.one_hot(torch.randint(0, K, (B, T)), WIDTH).double()
    x[..., K:] = torch.randn(B, T, WIDTH - K, dtype=torch.float64)  # for keys and values
    weight = layer.project.weight.data
    weight[:WIDTH] = 0
    for h in range(H):
        weight[h * K : (h + 1) * K, :K] = 1e3 * torch.eye(K)
    _, k, v = projected(layer, x)
    q = 3 * x[:, None, :, :K].expand(-1, H, -1, -1)
    scores = (q @ k.mT / math.sqrt(K)).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
    assert_same(layer(x)[0], (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(-2))


def test_the_order_of_the_agents_does_not_matter() -> None:
    layer, x = built(5, conv=3), some_x()
    before = layer(x)[0]
    layer.agents.data = layer.agents.data[:, torch.randperm(5)]
    assert_same(layer(x)[0], before)


def test_all_answers_of_a_moment_lie_in_what_the_agents_read() -> None:
    """Whatever is asked, the answers span no more dimensions than there are agents."""
    layer = built(3)
    _, state = layer(some_x())
    memory = state.child("memory")
    asked = torch.softmax(torch.randn(B, 50, H, 3, dtype=torch.float64), -1)
    answers = MEMORY.read(memory, asked).transpose(1, 2)  # (B, H, 50, K)
    assert bool((torch.linalg.matrix_rank(answers) == 3).all())


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_extreme_scores(size: float) -> None:
    layer = built(2)
    layer.agents.data.mul_(size)
    x = some_x().requires_grad_()
    out = layer(x)[0]
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert bool(torch.isfinite(gradient).all())
    assert_same(out, dense(layer, x))


def test_costs_grow_with_the_length_and_the_state_does_not() -> None:
    layer = Agents(4).build(64, 4)
    assert layer.flops(8192) / layer.flops(4096) == pytest.approx(2.0, rel=1e-3)
    sizes = {layer(torch.randn(1, time, 64))[1].nbytes for time in (1, 5, 33)}
    assert sizes == {layer.init_state(1).nbytes}


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidValue, match=r"Agents\(agents=\) is a number of vectors"):
        Agents(0)
    with pytest.raises(InvalidValue, match=r"Agents\(conv=\) spans at least 2 tokens; got 1"):
        mn.zoo.agent_attention(conv=1)
