"""What attention with fewer heads of keys and values must satisfy: multi-query attention, multi-head embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import HeadEmbeddings, HeadEmbeddingsLayer, MemoryLayer, with_kv_heads

B, T, WIDTH, HEADS = 2, 13, 16, 4
SIZE = WIDTH // HEADS
CAUSAL = torch.ones(T, T).tril().bool()


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def layer_of(kv_heads: int | None, heads: int = HEADS) -> MemoryLayer:
    return mn.zoo.transformer(kv_heads=kv_heads).pattern[0].build(WIDTH, heads).double()


def some_x() -> Tensor:
    return torch.randn(B, T, WIDTH, dtype=torch.float64)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, T, K) each, one head."""
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~CAUSAL, -torch.inf)
    return torch.softmax(scores, -1) @ v


def tie_(layer: MemoryLayer, groups: int) -> None:
    """The heads of a group get the keys and values of its first one."""
    with torch.no_grad():
        for part in layer.project.weight.split(layer.sizes)[1:]:
            by_group = part.view(groups, layer.kv_heads // groups, SIZE, WIDTH)
            by_group.copy_(by_group[:, :1].expand_as(by_group).clone())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_by_the_formula(kv_heads: int) -> None:
    """Query head i reads the keys and values of head i * kv_heads / H, rounded down."""
    spec = mn.zoo.multi_query_attention(kv_heads=kv_heads)
    layer = spec.replace(memory=mn.KVMemory()).build(WIDTH, HEADS).double()  # without positions
    x = some_x()
    q, k, v = (w.unflatten(0, (-1, SIZE)) for w in layer.project.weight.split(layer.sizes))
    heads = [
        attention(x @ q[i].T, x @ k[i * kv_heads // HEADS].T, x @ v[i * kv_heads // HEADS].T) for i in range(HEADS)
    ]
    expected = torch.cat(heads, -1) @ layer.out.weight.T
    assert_same(layer(x)[0], expected)
    state = layer.init_state(B)
    for t in range(T):  # and token by token
        out, state = layer(x[:, t : t + 1], state)
        assert_same(out[:, 0], expected[:, t])


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_tied_heads_are_one_head(kv_heads: int) -> None:
    full = layer_of(None)
    tie_(full, kv_heads)
    few = mn.zoo.multi_query_attention(kv_heads=kv_heads).build(WIDTH, HEADS).double()
    q, k, v = full.project.weight.split(full.sizes)
    first = [w.view(kv_heads, -1, SIZE, WIDTH)[:, 0].flatten(0, 1) for w in (k, v)]
    few.load_state_dict({"project.weight": torch.cat([q, *first]), "out.weight": full.out.weight})
    x = some_x()
    assert_same(few(x)[0], full(x)[0])


def test_as_many_heads_of_keys_as_of_queries_is_plain_attention() -> None:
    x = some_x()
    for kv_heads, heads in ((HEADS, HEADS), (1, 1)):
        plain, grouped = layer_of(None, heads), layer_of(kv_heads, heads)
        grouped.load_state_dict(plain.state_dict())
        assert torch.equal(grouped(x)[0], plain(x)[0])


def test_the_state_shrinks_with_the_heads() -> None:
    sizes = {}
    for kv_heads in (1, 2, 4):
        _, state = layer_of(kv_heads)(some_x())
        memory = state.child("memory")
        assert memory["keys"].shape == memory["values"].shape == (B, T, kv_heads, SIZE)
        sizes[kv_heads] = memory["keys"].nbytes + memory["values"].nbytes
    assert sizes[4] == 2 * sizes[2] == 4 * sizes[1]


def test_the_gradient_of_a_shared_key_is_the_sum_over_its_heads() -> None:
    q = torch.randn(B, T, HEADS, SIZE, dtype=torch.float64)
    k, v = (torch.randn(B, T, 1, SIZE, dtype=torch.float64, requires_grad=True) for _ in range(2))
    copies = [x.detach().repeat(1, 1, HEADS, 1).requires_grad_() for x in (k, v)]
    memory, target = mn.KVMemory(read=mn.Softmax(rotary=100.0)), torch.randn(B, T, HEADS, SIZE, dtype=torch.float64)
    shared = torch.autograd.grad((mn.run(memory, q, k, v)[0] * target).sum(), (k, v))
    single = torch.autograd.grad((mn.run(memory, q, copies[0], copies[1])[0] * target).sum(), copies)
    for one, several in zip(shared, single, strict=True):
        assert_same(one, several.sum(2, keepdim=True))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_heads_that_are_equal_are_pooled_without_a_change(kv_heads: int) -> None:
    full, x = layer_of(None), some_x()
    tie_(full, kv_heads)
    pooled = with_kv_heads(full, kv_heads)
    assert pooled.kv_heads == kv_heads and pooled.spec.kv_heads == kv_heads
    assert_same(pooled(x)[0], full(x)[0])


def test_other_heads_are_pooled_to_their_means() -> None:
    full = layer_of(4)
    pooled = with_kv_heads(full, 2)
    ours, theirs = pooled.project.weight.split(pooled.sizes), full.project.weight.split(full.sizes)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(pooled.out.weight, full.out.weight)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        for head in range(2):
            first, second = (other[SIZE * i : SIZE * (i + 1)] for i in (2 * head, 2 * head + 1))
            assert_same(one[SIZE * head : SIZE * (head + 1)], (first + second) / 2)
    pooled.project.weight.data.zero_()
    assert full.project.weight.any()  # a copy


def test_bad_poolings_are_named() -> None:
    with pytest.raises(InvalidValue, match=r"divides the layer's 4 heads of keys and values; got 3"):
        with_kv_heads(layer_of(None), 3)
    with pytest.raises(InvalidValue, match="without a convolution"):
        with_kv_heads(mn.LayerSpec(mn.KVMemory(), conv=3).build(WIDTH, HEADS), 1)
    with pytest.raises(InvalidType, match="takes a MemoryLayer"):
        with_kv_heads(mn.zoo.transformer().pattern[0], 1)  # pyright: ignore[reportArgumentType]


def embedded(combine: str, heads: int = HEADS) -> HeadEmbeddingsLayer:
    """A layer with large embeddings, whose output is the heads side by side."""
    layer = HeadEmbeddings(combine).build(WIDTH, heads).double()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name in ("query", "key", "value"):
                parameter.normal_()
        layer.out.weight.copy_(torch.eye(WIDTH))
    return layer


def test_multiplied_embeddings_by_the_formula() -> None:
    layer, x = embedded("mul"), some_x()
    assert layer.key is not None
    q, k, v = layer.project(x).chunk(3, -1)
    heads = [
        attention(q * (1 + layer.query[i]), k * (1 + layer.key[i]), v * (1 + layer.value[i])) for i in range(HEADS)
    ]
    assert_same(layer(x)[0], torch.cat(heads, -1))


def test_added_embeddings_by_the_formula_whatever_is_added_to_the_keys() -> None:
    layer, x = embedded("add"), some_x()
    q, k, v = layer.project(x).chunk(3, -1)
    added = torch.randn(HEADS, SIZE, dtype=torch.float64, requires_grad=True)
    heads = [attention(q + layer.query[i], k + added[i], v + layer.value[i]) for i in range(HEADS)]
    out = torch.cat(heads, -1)
    assert_same(layer(x)[0], out)
    (gradient,) = torch.autograd.grad(out.square().sum(), added)
    assert float(gradient.abs().max()) < 1e-12


def test_an_added_value_embedding_moves_its_head() -> None:
    layer, x = embedded("add"), some_x()
    before, move = layer(x)[0], torch.randn(HEADS, SIZE, dtype=torch.float64)
    layer.value.data.add_(move)
    assert_same(layer(x)[0] - before, move.flatten().expand(B, T, WIDTH))


@pytest.mark.parametrize("combine", ["mul", "add"])
def test_without_embeddings_all_heads_are_one(combine: str) -> None:
    layer, x = embedded(combine), some_x()
    for parameter in (layer.query, layer.key, layer.value):
        if parameter is not None:
            parameter.data.zero_()
    q, k, v = layer.project(x).chunk(3, -1)
    assert_same(layer(x)[0], attention(q, k, v).repeat(1, 1, HEADS))


def test_three_vectors_a_head_beside_a_single_head() -> None:
    """3 n d^2 + 3 n d numbers before the output, where multi-head attention has 3 n^2 d^2."""
    counts = {
        name: sum(p.numel() for n, p in spec.build(WIDTH, HEADS).named_parameters() if n != "out.weight")
        for name, spec in (
            ("mul", HeadEmbeddings()),
            ("add", HeadEmbeddings("add")),
            ("full", mn.LayerSpec(mn.KVMemory())),
        )
    }
    assert counts["mul"] == 3 * HEADS * SIZE**2 + 3 * HEADS * SIZE
    assert counts["add"] == 3 * HEADS * SIZE**2 + 2 * HEADS * SIZE
    assert counts["full"] - counts["mul"] == (3 * HEADS**2 - 3 * HEADS) * SIZE**2 - 3 * HEADS * SIZE


def test_one_head_is_plain_attention_with_other_columns() -> None:
    layer, x = embedded("mul", heads=1), some_x()
    assert layer.key is not None
    plain = mn.LayerSpec(mn.KVMemory()).build(WIDTH, 1).double()
    factors = 1 + torch.cat([layer.query[0], layer.key[0], layer.value[0]])
    plain.load_state_dict({"project.weight": layer.project.weight * factors[:, None], "out.weight": layer.out.weight})
    assert_same(layer(x)[0], plain(x)[0])


def test_one_head_of_entries_is_kept() -> None:
    _, state = embedded("mul")(some_x())
    assert state.child("memory")["keys"].shape == state.child("memory")["values"].shape == (B, T, 1, SIZE)


def test_bad_embeddings_are_named() -> None:
    with pytest.raises(InvalidValue, match=r'combine=\) is "mul" or "add"'):
        HeadEmbeddings("sum")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidType, match="retain= takes a Retain"):
        HeadEmbeddings(retain=5)  # pyright: ignore[reportArgumentType]
