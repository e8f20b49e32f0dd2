"""What core context aware attention must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import CoreContext

B, T, H, K = 2, 29, 2, 4


def inputs(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def run(memory: CoreContext, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return mn.run(memory, q, k, v, {"query": q})[0]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of one query (B, H, K) to keys and values (B, N, H, .)."""
    weights = (torch.einsum("bhk,bnhk->bhn", q, k) / math.sqrt(K)).softmax(-1)
    return torch.einsum("bhn,bnhv->bhv", weights, v)


def cores(q: Tensor, k: Tensor, x: Tensor, group: int) -> Tensor:
    """The averages of x (B, T, H, .) over all whole groups."""
    of = [
        attention(q[:, i + group - 1], k[:, i : i + group], x[:, i : i + group])
        for i in range(0, k.shape[1] - group + 1, group)
    ]
    return torch.stack(of, 1) if of else x[:, :0]


def literal(q: Tensor, k: Tensor, v: Tensor, group: int, window: int) -> Tensor:
    """The formula with both branches concatenated."""
    core_keys, core_values = cores(q, k, k, group), cores(q, k, v, group)
    out = []
    for i in range(q.shape[1]):
        j = max(0, math.floor((i - window) / group))
        keys = torch.cat([core_keys[:, :j], k[:, j * group : i + 1]], 1)
        values = torch.cat([core_values[:, :j], v[:, j * group : i + 1]], 1)
        out.append(attention(q[:, i], keys, values))
    return torch.stack(out, 1)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


@pytest.mark.parametrize(("group", "window"), [(4, 5), (3, 0), (5, 12), (2, 1), (8, 3)])
def test_cores_and_window_in_one_softmax(group: int, window: int) -> None:
    q, k, v = inputs(150)
    assert_same(run(CoreContext(group, window), q, k, v), literal(q, k, v, group, window))


def test_groups_of_one_are_full_attention() -> None:
    q, k, v = inputs()
    full = mn.run(mn.KVMemory(), q, k, v)[0]
    turned = mn.run(mn.KVMemory(read=mn.Softmax(rotary=100.0)), q, k, v)[0]
    for window in (0, 1, 7):
        assert_same(run(CoreContext(1, window), q, k, v), full)
        assert_same(run(CoreContext(1, window, rotary=100.0), q, k, v), turned)


def test_a_window_as_long_as_the_sequence_is_full_attention() -> None:
    q, k, v = inputs()
    full = mn.run(mn.KVMemory(read=mn.Softmax(rotary=100.0)), q, k, v)[0]
    for group, window in ((4, T), (5, T - 5)):
        assert_same(run(CoreContext(group, window, rotary=100.0), q, k, v), full)
    assert float((run(CoreContext(5, T - 6, rotary=100.0), q, k, v) - full).abs().max()) > 1e-3


@pytest.mark.parametrize(("group", "window"), [(4, 5), (3, 0), (1, 2)])
def test_every_past_token_is_read_once(group: int, window: int) -> None:
    """With equal scores a core of n tokens weighs as much as a single entry; counted by its tokens, all are covered."""
    memory = CoreContext(group, window)
    v = torch.eye(T, dtype=torch.float64)[None, :, None]
    zero = torch.zeros(1, T, 1, K, dtype=torch.float64)
    out = run(memory, zero, zero, v)[0, :, 0]
    for i in range(T):
        number = int(memory.cores_seen(torch.tensor(i)))
        exact = i + 1 - number * group
        assert exact == i + 1 if number == 0 else window + 1 <= exact <= window + group
        entries = number + exact
        expected = torch.tensor([1 / group / entries if t < number * group else 1 / entries for t in range(i + 1)])
        assert_same(out[i, : i + 1], expected.double(), 1e-7)
        assert not out[i, i + 1 :].any()


def test_equal_keys_make_means() -> None:
    q, k, v = inputs()
    k[:, 4:8] = k[:, 4:5]
    _, state = mn.run(CoreContext(4, 3), q, k, v, {"query": q})
    assert_same(state.child("cores")["values"][:, 1], v[:, 4:8].mean(1))


def test_pooling_and_projecting_commute() -> None:
    """The paper pools inputs and projects the cores; the memory pools keys and values."""
    q, k, _ = inputs()
    x, matrix = torch.randn(B, T, 8, dtype=torch.float64), torch.randn(8, H, K, dtype=torch.float64)
    v = torch.einsum("btx,xhv->bthv", x, matrix)
    _, state = mn.run(CoreContext(4, 3), q, k, v, {"query": q})
    of_inputs = cores(q, k, x[:, :, None].expand(-1, -1, H, -1), 4)
    assert_same(state.child("cores")["values"], torch.einsum("bchx,xhv->bchv", of_inputs, matrix))


def test_a_core_stands_where_its_last_token_does() -> None:
    """Groups are pooled as they are; then the core is turned to the position of its last token."""

    def turned(x: Tensor, at: Tensor) -> Tensor:
        angle = at[:, None] * 100.0 ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
        z = torch.complex(x[..., : K // 2], x[..., K // 2 :]) * torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.cat([z.real, z.imag], -1)

    q, k, v = inputs()
    group, window, at = 4, 3, torch.arange(T, dtype=torch.float64)
    core_values = cores(q, k, v, group)
    core_keys = turned(cores(q, k, k, group), at[group - 1 :: group])
    out = run(CoreContext(group, window, rotary=100.0), q, k, v)
    asked, single = turned(q, at), turned(k, at)
    for i in range(T):
        j = max(0, (i - window) // group)
        keys = torch.cat([core_keys[:, :j], single[:, j * group : i + 1]], 1)
        values = torch.cat([core_values[:, :j], v[:, j * group : i + 1]], 1)
        assert_same(out[:, i], attention(asked[:, i], keys, values))


def test_what_is_kept() -> None:
    q, k, v = inputs()
    memory = CoreContext(4, 6)
    _, state = mn.run(memory, q, k, v, {"query": q})
    recent, held = state.child("recent"), state.child("cores")
    assert sorted((recent["slot"][0] - 1).tolist()) == list(range(T - 10, T))
    assert held["slot"][0].tolist() == [4, 8, 12, 16, 20, 24, 28]
    assert_same(held["keys"], cores(q, k, k, 4))


@pytest.mark.parametrize("rotary", [None, 100.0])
def test_grouped_heads_are_repeated_heads(rotary: float | None) -> None:
    """Each head of keys has its cores, which several heads of queries read."""
    (_, k, v), (query, _, _) = inputs(), inputs()
    q = torch.randn(B, T, 3 * H, K, dtype=torch.float64)
    memory = CoreContext(4, 5, rotary=rotary)
    out, state = mn.run(memory, q, k, v, {"query": query})
    k, v, query = (x.repeat_interleave(3, 2) for x in (k, v, query))
    expected, repeated = mn.run(memory, q, k, v, {"query": query})
    assert_same(out, expected)
    assert state.child("cores")["keys"].shape[2] == H
    assert_same(memory.read(state, q[:, :4]), memory.read(repeated, q[:, :4]))
    assert_same(memory.read(state, q[:, 1]), memory.read(repeated, q[:, 1]))
    assert_same(memory.read(state, q[:, -1]), expected[:, -1])


def test_a_layer_pools_by_the_mean_of_the_queries_that_share_a_head() -> None:
    layer = mn.zoo.cca_attention(5, group=4, kv_heads=2).replace(memory=CoreContext(4, 5)).build(24, 6).double()
    x = torch.randn(B, T, 24, dtype=torch.float64)
    y, _ = layer(x)
    q, k, v = (part.unflatten(-1, (-1, 4)) for part in layer.project(x).split([24, 8, 8], -1))
    mean = torch.stack([q[:, :, :3].mean(2), q[:, :, 3:].mean(2)], 2)
    out, _ = mn.run(CoreContext(4, 5), q, k, v, {"query": mean})
    assert_same(y, layer.out(out.flatten(-2)))


def test_nothing_of_a_core_is_read_before_its_group_is_old() -> None:
    q, k, v = inputs()
    v.requires_grad_()
    out = run(CoreContext(4, 3), q, k, v)
    for t in (6, 7, 14, 28):
        (gradient,) = torch.autograd.grad(out[:, t].square().sum(), v, retain_graph=True)
        assert gradient[:, : t + 1].any(-1).all() and not gradient[:, t + 1 :].any()


def test_a_needle_beyond_the_window_is_found() -> None:
    """In a core of its own the needle still answers; a window of as many entries has lost it."""
    k = 0.1 * torch.randn(1, 128, 1, 32, dtype=torch.float64)
    v = torch.zeros(1, 128, 1, K, dtype=torch.float64)
    needle = torch.nn.functional.normalize(torch.randn(32, dtype=torch.float64), dim=0)
    k[0, 21, 0], v[0, 21, 0] = 6 * needle, 1.0
    q = (6 * needle).expand(1, 128, 1, 32)
    memory = CoreContext(8, 16, scale=1.0)
    assert run(memory, q, k, v)[0, -1, 0, 0] > 0.9
    size = 16 + 8 + 128 // 8
    windowed = mn.run(mn.KVMemory(retain=mn.Window(size), read=mn.Softmax(scale=1.0)), q, k, v)[0]
    assert not windowed[0, -1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 0}, "CoreContext(group=) is a number of tokens of at least 1; got 0."),
        ({"window": -1}, "CoreContext(window=) is a number of tokens, at least 0; got -1."),
        ({"scale": 0.0}, "CoreContext(scale=) must be positive; got 0.0."),
        ({"rotary": 1.0}, "CoreContext(rotary=) is a base above 1; got 1.0."),
    ],
)
def test_options_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        CoreContext(**options)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == message


def test_other_mistakes() -> None:
    with pytest.raises(InvalidValue, match="a core context memory starts empty and takes no weights"):
        CoreContext().init(1, 1, 4, 4, {"matrix": torch.zeros(1, 4, 4)})
    with pytest.raises(InvalidValue, match="key_dim must be even; got 3"):
        CoreContext(rotary=10.0).init(1, 1, 3, 3)
    q, k, v = inputs(3)
    with pytest.raises(InvalidValue, match="missing control 'query'"):
        mn.run(CoreContext(), q, k, v)
