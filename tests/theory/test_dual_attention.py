"""What relational heads beside sensory ones must satisfy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import DualAttention, DualAttentionLayer

B, T, WIDTH, HEADS = 2, 15, 24, 4
SIZE = WIDTH // HEADS


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def some_x() -> Tensor:
    return torch.randn(B, T, WIDTH, dtype=torch.float64)


def rotated(x: Tensor, base: float) -> Tensor:
    """x (..., T, K) turned by its positions, by complex numbers."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * base ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def weights_of(q: Tensor, k: Tensor) -> Tensor:
    """Causal attention weights (B, T, T) of q and k (B, T, K)."""
    later = torch.ones(T, T).triu(1).bool()
    return torch.softmax((q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(later, -torch.inf), -1)


def relations_of(layer: DualAttentionLayer, x: Tensor) -> Tensor:
    """r (B, T, T, relations), pair by pair."""
    related = layer.relate(x)
    asking, asked = (related, related) if layer.spec.symmetric else related.chunk(2, -1)
    a, b = (y.unflatten(-1, (layer.relations, -1)) for y in (asking, asked))
    return (a[:, :, None] * b[:, None]).sum(-1) / math.sqrt(a.shape[-1])


def symbols_of(layer: DualAttentionLayer, x: Tensor) -> Tensor:
    """s_j (B, T, T, width) as token t is told it."""
    if layer.spec.symbols == "relative":
        half = WIDTH // 2
        lag = torch.arange(T) - torch.arange(T)[:, None]
        angle = lag[..., None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        return torch.cat([angle.cos(), angle.sin()], -1).expand(B, -1, -1, -1)
    scores = layer.retrieve(x) @ layer.templates.T / math.sqrt(WIDTH)
    return (torch.softmax(scores, -1) @ layer.symbols)[:, None].expand(-1, T, -1, -1)


def relational_by_the_formula(layer: DualAttentionLayer, x: Tensor) -> Tensor:
    """The relational heads, with the tensor of all relations."""
    r, s, outs = relations_of(layer, x), symbols_of(layer, x), []
    q, k = (y.unflatten(-1, (-1, SIZE)) for y in layer.attend(x).chunk(2, -1))
    for h in range(layer.relational):
        mine = [y[:, :, h] for y in (q, k)]
        if layer.spec.rotary is not None:
            mine = [rotated(y, layer.spec.rotary) for y in mine]
        told = r @ layer.from_relations[h].T + s @ layer.from_symbols[h].T
        outs.append((weights_of(*mine)[..., None] * told).sum(2))
    return torch.cat(outs, -1) @ layer.relational_out.weight.T


SPECS = [
    DualAttention(),
    DualAttention(3, rotary=None),
    DualAttention(4, relations=2, symmetric=True, library=5),
    DualAttention(1, symbols="relative", rotary=30.0),
    DualAttention(2, relations=12, symbols="relative"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_formula_with_all_relations_written_out(spec: DualAttention) -> None:
    layer, x = spec.build(WIDTH, HEADS).double(), some_x()
    sensory = (HEADS - layer.relational) * SIZE
    out = layer(x)[0]
    assert_same(out[..., sensory:], relational_by_the_formula(layer, x), 1e-11)
    if not sensory:
        return
    q, k, v = (y.unflatten(-1, (-1, SIZE)) for y in layer.project(x).chunk(3, -1))
    heads = []
    for h in range(HEADS - layer.relational):
        mine = [y[:, :, h] if spec.rotary is None else rotated(y[:, :, h], spec.rotary) for y in (q, k)]
        heads.append(weights_of(*mine) @ v[:, :, h])
    assert_same(out[..., :sensory], torch.cat(heads, -1) @ layer.sensory_out.weight.T)


def test_half_of_the_heads_are_relational() -> None:
    assert [DualAttention().build(WIDTH, heads).relational for heads in (1, 2, 3, 4)] == [0, 1, 1, 2]
    assert DualAttention().build(WIDTH, HEADS).relations == 2


def test_without_relational_heads_it_is_plain_attention() -> None:
    dual = DualAttention(0).build(WIDTH, HEADS).double()
    plain = mn.zoo.transformer().pattern[0].build(WIDTH, HEADS).double()
    plain.load_state_dict({"project.weight": dual.project.weight, "out.weight": dual.sensory_out.weight})
    x = some_x()
    assert torch.equal(dual(x)[0], plain(x)[0])


def test_without_relations_the_symbols_are_the_values() -> None:
    """Relational cross-attention, as in the Abstractor (arXiv 2304.00195)."""
    layer, x = DualAttention(HEADS, rotary=None).build(WIDTH, HEADS).double(), some_x()
    layer.from_relations.data.zero_()
    q, k = (y.unflatten(-1, (-1, SIZE)) for y in layer.attend(x).chunk(2, -1))
    symbols = symbols_of(layer, x)[:, 0]
    heads = [weights_of(q[:, :, h], k[:, :, h]) @ symbols @ layer.from_symbols[h].T for h in range(HEADS)]
    assert_same(layer(x)[0], torch.cat(heads, -1) @ layer.relational_out.weight.T)


def test_without_symbols_only_relations_tell() -> None:
    layer, x = DualAttention(HEADS).build(WIDTH, HEADS).double(), some_x()
    layer.from_symbols.data.zero_()
    before = layer(x)[0]
    layer.symbols.data.normal_()
    layer.templates.data.normal_()
    assert torch.equal(layer(x)[0], before)
    layer.relate.weight.data.normal_()
    assert float((layer(x)[0] - before).detach().abs().max()) > 1e-2


def test_symmetric_relations() -> None:
    """r_tj = r_jt, by half the projection; the same as two equal ones."""
    one = DualAttention(HEADS, symmetric=True).build(WIDTH, HEADS).double()
    two = DualAttention(HEADS).build(WIDTH, HEADS).double()
    state = one.state_dict()
    two.load_state_dict(state | {"relate.weight": state["relate.weight"].repeat(2, 1)})
    x = some_x()
    assert_same(one(x)[0], two(x)[0])
    r = relations_of(one, x)
    assert_same(r, r.transpose(1, 2))


def test_relational_heads_see_how_tokens_relate_and_not_what_they_are() -> None:
    """A rotation of all tokens keeps all inner products: relational heads do not notice, sensory heads do."""
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))
    x = some_x()

    def moved(layer: DualAttentionLayer) -> float:
        return float((layer(x @ turn)[0] - layer(x)[0]).detach().abs().max())

    both = torch.eye(WIDTH, dtype=torch.float64).repeat(2, 1)  # inner products of the tokens themselves
    layer = DualAttention(1, relations=1, symbols="relative", rotary=None).build(WIDTH, 1).double()
    layer.attend.weight.data.copy_(both)
    layer.relate.weight.data.copy_(both)
    assert moved(layer) < 1e-12 < 0.1 < float(layer(x)[0].detach().abs().max())
    named = DualAttention(1, relations=1, rotary=None).build(WIDTH, 1).double()  # symbols that depend on the tokens
    named.load_state_dict(named.state_dict() | layer.state_dict())
    assert moved(named) > 1e-3
    sensory = DualAttention(0, rotary=None).build(WIDTH, 1).double()
    sensory.project.weight.data[: 2 * WIDTH].copy_(both)
    assert moved(sensory) > 1e-2


def test_relative_symbols_do_not_know_where_the_sequence_stands() -> None:
    layer, x = DualAttention(HEADS, symbols="relative").build(WIDTH, HEADS).double(), some_x()
    fresh = layer.init_state(B)
    later = fresh.successor(relational=fresh.child("relational"), count=fresh["count"] + 10_000)
    assert_same(layer(x, later)[0], layer(x)[0], 1e-9)


def test_all_relational_heads_share_an_entry() -> None:
    _, state = DualAttention(3).build(WIDTH, HEADS).double()(some_x())
    relational = state.child("relational")
    assert relational["keys"].shape == (B, T, 1, 3 * SIZE)
    assert relational["values"].shape == (B, T, 1, 3 * SIZE + WIDTH)
    assert state.child("sensory")["keys"].shape == (B, T, 1, SIZE)


def test_bad_options_are_named() -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"relational": -1}, r"relational=\) is a number of heads; got -1"),
        ({"relations": 0}, r"relations=\) is at least 1; got 0"),
        ({"symbols": "absolute"}, r'symbols=\) is "symbolic" or "relative"'),
        ({"library": 0}, r"library=\) is a number of symbols of at least 1"),
        ({"rotary": 0.5}, r"rotary=\) is a base above 1, or None; got 0.5"),
    )
    for options, message in bad:
        with pytest.raises(InvalidValue, match=message):
            DualAttention(**options)
    for spec, width, heads, message in (
        (DualAttention(3), 8, 2, "3 relational heads are more than all 2"),
        (DualAttention(), 6, 2, "rotary positions need an even key_dim; got 3"),
        (DualAttention(2, relations=3), 8, 2, "8 channels of relational heads cannot be shared between 3 relations"),
        (DualAttention(1, symbols="relative", rotary=None), 9, 1, "width must be even; got 9"),
    ):
        with pytest.raises(InvalidValue, match=message):
            spec.build(width, heads)
