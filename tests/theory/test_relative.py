"""What attention with relative positions must satisfy (arXiv 1809.04281)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.layers import RelativeTable
from mnemos.memory import Relative

B, T, H, K = 2, 13, 2, 4


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, T, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def skewed(q: Tensor, table: Tensor) -> Tensor:
    """The paper's memory-linear layout: table (T, K) with distance 0 in its last row, q (T, K) -> (T, T), whose entries
    j <= i are q_i . table[T - 1 - (i - j)]; the others mean nothing."""
    padded = F.pad(q @ table.T, (1, 0))
    return padded.view(len(q) + 1, len(q))[1:]


def run(length: int, bias: Tensor, beyond: str = "zero") -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    q, k, v = inputs()
    memory = mn.KVMemory(read=Relative(length, beyond=beyond))  # pyright: ignore[reportArgumentType]
    return mn.run(memory, q, k, v, {"bias": bias})[0], (q, k, v)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).abs().max()) <= tolerance


def test_it_is_the_skewed_form_of_the_paper() -> None:
    q, k, v = inputs()
    rule = RelativeTable().build(H * K, H, T).double()
    assert isinstance(rule.table, Tensor)
    found, _ = mn.run(mn.KVMemory(read=Relative(T)), q, k, v, {"bias": rule(q)})
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    for b in range(B):
        for h in range(H):
            of_lag = rule.table[h].detach().flip(0)  # the paper's last row is distance 0
            scores = (q[b, :, h] @ k[b, :, h].T + skewed(q[b, :, h], of_lag)) / math.sqrt(K)
            weights = scores.masked_fill(later, -torch.inf).softmax(-1)
            assert_same(found[b, :, h].detach(), weights @ v[b, :, h])


def test_no_bias_and_an_even_bias_are_plain_attention() -> None:
    for bias in (torch.zeros(B, T, H, T, dtype=torch.float64), torch.randn(B, T, H, 1).double().expand(-1, -1, -1, T)):
        found, (q, k, v) = run(T, bias)
        assert_same(found, mn.run(mn.KVMemory(), q, k, v)[0])


@pytest.mark.parametrize("beyond", ["zero", "clip"])
def test_what_is_further_away_than_the_table(beyond: str) -> None:
    bias = torch.randn(B, T, H, 5, dtype=torch.float64)
    torch.manual_seed(0)
    found, _ = run(5, bias, beyond)
    filled = bias[..., -1:].expand(-1, -1, -1, T - 5) if beyond == "clip" else bias.new_zeros(B, T, H, T - 5)
    torch.manual_seed(0)
    expected, _ = run(T, torch.cat([bias, filled], -1))
    assert_same(found, expected)


def test_shifting_a_stream_changes_nothing() -> None:
    """Only distances count: what came before and got no weight leaves no trace."""
    q, k, v = inputs()
    bias = torch.randn(B, T, H, 3, dtype=torch.float64)
    memory = mn.KVMemory(retain=mn.Window(3), read=Relative(3))
    whole, _ = mn.run(memory, q, k, v, {"bias": bias})
    later, _ = mn.run(memory, q[:, 4:], k[:, 4:], v[:, 4:], {"bias": bias[:, 4:]})
    assert_same(later[:, 2:], whole[:, 6:])


def test_a_layer_learns_a_vector_for_every_distance() -> None:
    layer = mn.MemoryLayer(mn.zoo.music_transformer(lags=6), width=8, heads=2)
    y, _ = layer(torch.randn(1, 9, 8))
    y.sum().backward()
    rule = layer.asking["bias"]
    assert isinstance(rule.table, torch.nn.Parameter) and rule.table.shape == (2, 6, 4)
    assert rule.table.grad is not None and bool((rule.table.grad != 0).all())


def layer_of(lags: int) -> mn.MemoryLayer:
    return mn.MemoryLayer(mn.zoo.music_transformer(lags=lags), width=8, heads=2).double()


def table_of(layer: mn.MemoryLayer) -> Tensor:
    table = layer.asking["bias"].table
    assert isinstance(table, Tensor)
    return table.detach()


def test_a_table_of_zeros_or_of_one_vector_is_plain_attention() -> None:
    layer, x = layer_of(T), torch.randn(B, T, 8, dtype=torch.float64)
    plain = mn.LayerSpec(mn.KVMemory()).build(8, 2).double()
    plain.load_state_dict({"project.weight": layer.project.weight, "out.weight": layer.out.weight})
    assert float((layer(x)[0] - plain(x)[0]).detach().abs().max()) > 1e-3
    for vector in (torch.zeros(2, 1, 4), torch.randn(2, 1, 4)):
        table_of(layer).copy_(vector)
        assert_same(layer(x)[0].detach(), plain(x)[0].detach())


@pytest.mark.parametrize("lags", [5, T, T + 4])
def test_vectors_of_zeros_for_larger_distances_change_nothing(lags: int) -> None:
    """Whether the table is shorter or longer than the sequence."""
    short, longer, x = layer_of(lags), layer_of(lags + 3), torch.randn(B, T, 8, dtype=torch.float64)
    longer.load_state_dict(short.state_dict() | {"asking.bias.table": F.pad(table_of(short), (0, 0, 0, 3))})
    assert_same(longer(x)[0].detach(), short(x)[0].detach())


def test_tokens_that_get_no_weight_in_front_change_nothing() -> None:
    """All keep their distances, and all of the table is in use."""
    q, k, v = inputs()
    bias, front = torch.randn(B, T, H, T + 6, dtype=torch.float64), 6
    memory = mn.KVMemory(read=Relative(T + front, scale=0.5))
    alone, _ = mn.run(memory, q, k, v, {"bias": bias})
    masking = torch.cat([torch.full((front,), -1e9), torch.zeros(T)]).double()[:, None, None].expand(B, -1, H, 1)
    before = [torch.randn(B, front, *x.shape[2:], dtype=torch.float64) for x in (q, k, v, bias)]
    q, k, v, bias = (torch.cat([one, x], 1) for one, x in zip(before, (q, k, v, bias), strict=True))
    whole, _ = mn.run(memory, F.pad(q, (0, 1), value=1.0), torch.cat([k, masking], -1), v, {"bias": bias})
    assert_same(whole[:, front:], alone)


def test_options_that_cannot_be() -> None:
    for given, message in (({"length": 0}, "at least 1"), ({"beyond": "wrap"}, '"zero" or "clip"')):
        with pytest.raises(mn.MnemosError, match=message):
            Relative(**given)
