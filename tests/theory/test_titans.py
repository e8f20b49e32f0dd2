"""Titans' three arrangements and persistent tokens: what the papers say must hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import ContextLayer, GateLayer

WIDTH, HEADS = 16, 2


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    one, other = one.detach(), other.detach()
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


def some(time: int) -> Tensor:
    return torch.randn(2, time, WIDTH, dtype=torch.float64)


PERSISTENT = {
    "titans_lmm": mn.zoo.titans_lmm(chunk=4, persistent=3),
    "titans_lmm-exact": mn.zoo.titans_lmm(depth=1, chunk=None, persistent=3),
    "gated_deltanet": mn.zoo.gated_deltanet().replace(persistent=3),
    "retnet": mn.zoo.retnet().replace(persistent=3),
    "sliding_window": mn.zoo.sliding_window(5, sinks=4).replace(persistent=3),
}


@pytest.mark.parametrize("name", PERSISTENT)
def test_persistent_tokens_are_tokens_read_first(name: str) -> None:
    """Folding: running on [P, x] from nothing is running on x from the state after P."""
    spec = PERSISTENT[name]
    layer = mn.MemoryLayer(spec, width=WIDTH, heads=HEADS).double()
    bare = mn.MemoryLayer(spec.replace(persistent=0), width=WIDTH, heads=HEADS).double()
    bare.load_state_dict({n: x for n, x in layer.state_dict().items() if n != "persistent"})
    x = some(11)
    assert layer.persistent is not None
    y, state = layer(x)
    longer, last = bare(torch.cat([layer.persistent.expand(2, -1, -1), x], 1))
    assert_same(y, longer[:, 3:])
    one, other = dict(state.tensors()), dict(last.tensors())
    for tensor in one:
        assert_same(one[tensor].double(), other[tensor].double())
    for t in (0, 10):
        (gradient,) = torch.autograd.grad(y[:, t].square().sum(), layer.persistent, retain_graph=True)
        assert gradient.all(-1).all(), "every token reaches every persistent one"


def test_no_persistent_tokens_is_no_change() -> None:
    spec = mn.zoo.titans_lmm(chunk=4)
    assert spec == spec.replace(persistent=0)
    assert mn.MemoryLayer(spec, width=WIDTH, heads=HEADS).persistent is None


def test_persistent_tokens_come_back_after_a_reset() -> None:
    layer = mn.MemoryLayer(PERSISTENT["sliding_window"], width=WIDTH, heads=HEADS).double()
    x = some(9)
    _, state = layer(some(30))
    assert_same(layer(x, state.reset(torch.tensor([True, True])))[0], layer(x)[0])


def scored(layer: mn.MemoryLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, H, T, 3 + T) of plain softmax attention, and values, of three persistent tokens and its own."""
    assert layer.persistent is not None
    q, k, v = (
        y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for y in layer.project(torch.cat([layer.persistent.expand(2, -1, -1), x], 1)).chunk(3, -1)
    )
    return q[:, :, 3:] @ k.mT / q.shape[-1] ** 0.5, v


def joined(layer: mn.MemoryLayer, o: Tensor) -> Tensor:
    return layer.out(o.transpose(1, 2).flatten(-2))


def test_persistent_and_own_tokens_share_one_softmax() -> None:
    """o = (Z_p o_p + Z_c o_c) / (Z_p + Z_c), each side read by itself with Z its sum of exponentials."""
    layer = mn.MemoryLayer(mn.LayerSpec(mn.KVMemory(), persistent=3), width=WIDTH, heads=HEADS).double()
    x = some(9)
    scores, v = scored(layer, x)
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    sides = scores[..., :3].exp(), scores[..., 3:].exp().masked_fill(later, 0.0)
    answers = [side / side.sum(-1, keepdim=True) @ y for side, y in zip(sides, v.split([3, 9], 2), strict=True)]
    z = [side.sum(-1, keepdim=True) for side in sides]
    o = (z[0] * answers[0] + z[1] * answers[1]) / (z[0] + z[1])
    assert_same(layer(x)[0], joined(layer, o))


def test_persistent_tokens_of_zero_make_attention_quiet() -> None:
    """Keys and values of zero add 1 each to the denominator and nothing else: o = sum e^s v / (3 + sum e^s)."""
    layer = mn.MemoryLayer(mn.LayerSpec(mn.KVMemory(), persistent=3), width=WIDTH, heads=HEADS).double()
    with torch.no_grad():
        assert layer.persistent is not None
        layer.persistent.zero_()
    x = some(9)
    scores, v = scored(layer, x)
    weights = scores[..., 3:].exp().tril()
    assert_same(layer(x)[0], joined(layer, weights @ v[:, :, 3:] / (3 + weights.sum(-1, keepdim=True))))


class TestContext:
    """MAC."""

    @staticmethod
    def layer(persistent: int = 2) -> ContextLayer:
        spec = mn.zoo.titans_mac(segment=4, persistent=persistent).pattern[0]
        layer = spec.build(WIDTH, HEADS).double()
        assert isinstance(layer, ContextLayer)
        return layer

    def test_causality(self) -> None:
        layer, x = self.layer(), some(14).requires_grad_()
        y, _ = layer(x)
        for t in range(14):
            (gradient,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
            assert not gradient[:, t + 1 :].any() and gradient[:, : t + 1].all(-1).all()

    def test_the_first_segment_recalls_from_the_initial_memory(self) -> None:
        """What is recalled in a segment depends on the memory before it only, in the first on none of the tokens."""
        layer, x = self.layer(), some(4)
        state = layer.init_state(2)
        recalled = layer._recall(x, state.child("memory"))
        q = torch.nn.functional.normalize(torch.nn.functional.silu(layer.recall(x)).unflatten(-1, (HEADS, -1)), dim=-1)
        memory = layer.memory.memory
        assert isinstance(memory, mn.Memory)
        weights = {n: w.expand(2, *w.shape) for n, w in layer.memory.initial.items()}
        answer = memory.structure.forward(lambda n, h: h @ weights[n].mT, q.transpose(1, 2)).transpose(1, 2)
        assert_same(recalled, layer.recalled_norm(layer.recalled(answer.flatten(-2))))

    def test_within_a_segment_the_same_memory_is_recalled(self) -> None:
        layer, x = self.layer(), some(7)
        _, early = layer(x[:, :4])
        _, late = layer(x)
        probe = some(3)
        assert_same(layer._recall(probe, late.child("memory")), layer._recall(probe, early.child("memory")))
        _, closed = layer(some(1), late)
        moved = layer._recall(probe, closed.child("memory")) - layer._recall(probe, late.child("memory"))
        assert float(moved.detach().abs().max()) > 1e-6

    def test_the_past_reaches_later_segments_through_the_memory_alone(self) -> None:
        """Two pasts that leave the same memory are the same past: no keys cross a segment's end."""
        layer = self.layer()
        _, one = layer(some(8))
        _, other = layer(some(8))
        more = some(6)
        swapped = one.successor(**one.entries | {"segment": other["segment"]})
        assert torch.equal(layer(more, swapped)[0], layer(more, one)[0])
        forgot = one.successor(**one.entries | {"memory": other.child("memory")})
        assert_same(layer(more, forgot)[0], layer(more, other)[0])

    def test_the_state_does_not_grow(self) -> None:
        layer = self.layer()
        assert layer(some(40))[1].nbytes == layer(some(1))[1].nbytes == layer.init_state(2).nbytes

    def test_attention_sees_what_it_should(self) -> None:
        """Without a memory (recalled entries of zero keys and values keep their share of the softmax), the first
        token of a segment averages persistent tokens, its recalled entry and itself."""
        layer = self.layer(persistent=0)
        x = some(4)
        entries = torch.zeros(2, 4, 2, 2, WIDTH, dtype=torch.float64)
        entries[:, :, 1, 1] = some(4)
        y = layer._attend(x, entries)
        values = entries[:, :, 1, 1].cumsum(1) / (2 * torch.arange(1, 5, dtype=torch.float64)[:, None])
        assert_same(y, layer.out(values))

    def test_with_a_silent_memory_segments_attend_to_themselves(self) -> None:
        """Without persistent tokens, block by block, but for what is recalled: as many zeros as there are tokens so
        far, each with its share exp(0). A gate of sigmoid(0) halves the output."""
        layer, x = self.layer(persistent=0), some(14)
        with torch.no_grad():
            layer.recalled.weight.zero_()
            layer.memory.out.weight.zero_()
        half = WIDTH // HEADS // 2
        angle = torch.arange(14)[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k, v = (
            y.unflatten(-1, (HEADS, -1)) for y in (layer.query(x), *layer.key_value(x).split([WIDTH, WIDTH], -1))
        )
        q, k = (torch.complex(y[..., :half], y[..., half:]) * turn for y in (q, k))
        scores = torch.einsum("bthk,bshk->bhts", q, k.conj()).real / (2 * half) ** 0.5
        segment = torch.arange(14) // 4
        weights = scores.exp().tril() * (segment[:, None] == segment)
        zeros = torch.arange(14, dtype=torch.float64)[:, None] % 4 + 1
        o = torch.einsum("bhts,bshv->bthv", weights / (weights.sum(-1, keepdim=True) + zeros), v)
        assert_same(layer(x)[0], layer.out_norm(layer.out(o.flatten(-2))) / 2)


class TestGate:
    """MAG."""

    @staticmethod
    def layer(**options: int) -> GateLayer:
        layer = mn.zoo.titans_mag(chunk=4, **options).pattern[0].build(WIDTH, HEADS).double()
        assert isinstance(layer, GateLayer)
        return layer

    def test_parts(self) -> None:
        layer, x = self.layer(window=5), some(13)
        y, m = layer.layer(x)[0], layer.gate(x)[0]
        assert_same(layer(x)[0], layer.layer_norm(y) * torch.sigmoid(layer.gate_norm(m)))

    def test_a_memory_that_answers_zero_halves_the_attention(self) -> None:
        """The gate's nonlinearity is a sigmoid, so nothing remembered is a gate of one half."""
        layer, x = self.layer(window=5), some(13)
        with torch.no_grad():
            layer.gate.out.weight.zero_()  # pyright: ignore
        assert_same(layer(x)[0], layer.layer_norm(layer.layer(x)[0]) / 2)

    def test_a_window_of_one_without_persistent_tokens_passes_the_value(self) -> None:
        layer, x = self.layer(window=1, persistent=0), some(13)
        attention = layer.layer
        assert isinstance(attention, mn.MemoryLayer)
        value = attention.project(x)[..., -WIDTH:]
        assert_same(attention(x)[0], attention.out(value))

    def test_a_long_window_is_full_attention_over_persistent_tokens_and_the_text(self) -> None:
        layer, x = self.layer(window=64, persistent=3), some(13)
        attention = layer.layer
        assert isinstance(attention, mn.MemoryLayer) and attention.persistent is not None
        full = mn.MemoryLayer(mn.zoo.transformer().pattern[0].memory, width=WIDTH, heads=HEADS).double()  # pyright: ignore
        full.load_state_dict({n: w for n, w in attention.state_dict().items() if n != "persistent"})
        longer, _ = full(torch.cat([attention.persistent.expand(2, -1, -1), x], 1))
        assert_same(attention(x)[0], longer[:, 3:])

    def test_an_open_gate_leaves_full_attention(self) -> None:
        """A long window and a gate of 1: attention over persistent tokens and the text, and its norm."""
        layer, x = self.layer(window=64, persistent=3), some(13)
        layer.gate_norm = Open()  # pyright: ignore[reportAttributeAccessIssue]
        attention = layer.layer
        assert isinstance(attention, mn.MemoryLayer) and attention.persistent is not None
        full = mn.MemoryLayer(mn.zoo.transformer().pattern[0].memory, width=WIDTH, heads=HEADS).double()  # pyright: ignore
        full.load_state_dict({n: w for n, w in attention.state_dict().items() if n != "persistent"})
        longer, _ = full(torch.cat([attention.persistent.expand(2, -1, -1), x], 1))
        assert_same(layer(x)[0], layer.layer_norm(longer[:, 3:]))


class Open(torch.nn.Module):
    """sigmoid of it is 1."""

    def forward(self, m: Tensor) -> Tensor:
        return torch.full_like(m, 1000.0)


class TestLayer:
    """MAL."""

    def test_the_memory_comes_first_and_reaches_without_end(self) -> None:
        spec = mn.zoo.titans_mal(window=4, chunk=4, persistent=0)
        memory, attention = spec.pattern
        assert isinstance(memory, mn.LayerSpec) and isinstance(memory.memory, mn.Memory)
        assert isinstance(attention, mn.LayerSpec) and attention.memory == mn.zoo.sliding_window(4, sinks=0).memory
        model = mn.LanguageModel(spec.replace(width=WIDTH, depth=2, heads=HEADS, vocabulary=5)).double()
        embedded: list[Tensor] = []
        model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
        logits, _ = model(torch.randint(0, 5, (1, 30)))
        (gradient,) = torch.autograd.grad(logits[0, -1].square().sum(), embedded)
        assert gradient[0, 0].any()
        without = model.blocks[1]
        x = torch.randn(1, 30, WIDTH, dtype=torch.float64, requires_grad=True)
        y, _ = without(x, without.layer.init_state(1), None)
        (gradient,) = torch.autograd.grad(y[0, -1].square().sum(), x)
        assert not gradient[0, :26].any() and gradient[0, 26:].any(-1).all()

    def test_a_memory_that_adds_nothing_leaves_window_attention(self) -> None:
        spec = mn.zoo.titans_mal(window=4, chunk=4, persistent=2)
        sizes = {"width": WIDTH, "heads": HEADS, "vocabulary": 5}
        model = mn.LanguageModel(spec.replace(depth=2, **sizes)).double()
        alone = mn.LanguageModel(mn.ModelSpec(pattern=(spec.pattern[1],), depth=1, **sizes)).double()
        with torch.no_grad():
            for weight in (model.blocks[0].layer.out.weight, model.blocks[0].ffn.down.weight):  # pyright: ignore
                weight.zero_()  # pyright: ignore
        kept = {n: w for n, w in model.state_dict().items() if not n.startswith("blocks.0.")}
        alone.load_state_dict({n.replace("blocks.1.", "blocks.0."): w for n, w in kept.items()})
        tokens = torch.randint(0, 5, (2, 17))
        assert_same(model(tokens)[0], alone(tokens)[0])

    def test_a_window_of_one_sees_the_memory_s_answer_token_by_token(self) -> None:
        spec = mn.zoo.titans_mal(window=1, chunk=4, persistent=0)
        model = mn.LanguageModel(spec.replace(width=WIDTH, depth=2, heads=HEADS, vocabulary=5)).double()
        block, x, order = model.blocks[1], some(13), torch.randperm(13)
        attention = block.layer
        assert isinstance(attention, mn.MemoryLayer)
        y, _ = block(x, attention.init_state(2), None)
        z = x + attention.out(attention.project(block.norm(x))[..., -WIDTH:])  # pyright: ignore
        assert_same(y, block.feed(z))  # pyright: ignore
        assert_same(block(x[:, order], attention.init_state(2), None)[0], y[:, order])


def test_the_rate_of_half_the_squared_error() -> None:
    """Our rate is twice the paper's theta: one step on |M k - v|^2 at theta is our step at 2 theta."""
    memory = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(anchor="previous"))
    start = torch.randn(1, 3, 3, dtype=torch.float64)
    k, v = (torch.randn(1, 1, 1, 3, dtype=torch.float64) for _ in range(2))
    theta = 0.1
    rate = torch.full((1, 1, 1), 2 * theta, dtype=torch.float64)
    _, state = mn.run(memory, k, k, v, {"rate": rate}, {"matrix": start})
    matrix = start.clone().requires_grad_()
    loss = (torch.einsum("hvk,k->hv", matrix, k[0, 0, 0]) - v[0, 0]).square().sum()
    (gradient,) = torch.autograd.grad(loss, matrix)
    assert_same(state["matrix"][0], (start - theta * gradient))


def test_the_matrix_titans_with_momentum_is_exact_token_by_token() -> None:
    """A matrix with momentum and decay needs no chunked gradients: the triangular system gives the recurrence."""
    spec = mn.zoo.titans_lmm(depth=1, chunk=None)
    layer = mn.MemoryLayer(spec, width=WIDTH, heads=HEADS).double()
    assert "triangular delta" in layer.explain(256)
    x = some(40)
    whole, _ = layer(x)
    state, outputs = layer.init_state(2), []
    for t in range(40):
        y, state = layer(x[:, t : t + 1], state)
        outputs.append(y)
    assert_same(whole, torch.cat(outputs, 1), 1e-9)


def test_gates_of_a_chunk_are_those_of_its_first_token() -> None:
    """A layer that holds its gates is one whose rules see, in the place of each token, the first of its chunk."""
    layer = mn.zoo.titans_lmm(chunk=4, hold=4).build(16, 2).double()
    plain = mn.zoo.titans_lmm(chunk=4).build(16, 2).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 14, 16, dtype=torch.float64)
    first = torch.arange(14) // 4 * 4
    for name, rule in list(plain.controls.items()):
        plain.controls[name] = OfFirst(rule, first)
    assert float((layer(x)[0] - plain(x)[0]).detach().abs().max()) <= 1e-12
    assert float((layer(x)[0] - with_gates_of_each_token(layer, x)).detach().abs().max()) > 1e-4


class OfFirst(torch.nn.Module):
    def __init__(self, rule: torch.nn.Module, first: torch.Tensor):
        super().__init__()
        self.rule, self.first = rule, first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rule(x[:, self.first])


def with_gates_of_each_token(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the layer gives with gates of each token."""
    each = mn.zoo.titans_lmm(chunk=4).build(16, 2).double()
    each.load_state_dict(layer.state_dict())
    return each(x)[0]
