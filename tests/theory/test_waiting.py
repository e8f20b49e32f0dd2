"""What queries that wait must satisfy (Attendre): what they see, when they are answered, what stays meanwhile."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import AsGate, FourierInput, LayerDeclaration, WaitToAttend, WaitToAttendLayer
from mnemos.memory import Delayed, KVMemory, LeastFrequentlyAttended, LeastRecentlyAttended, Retain
from mnemos.models import MemoryTokens, flush, generate

B, T, WIDTH, H = 2, 19, 8, 2
K = WIDTH // H


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def layer_of(retain: Retain, delay: int, top: int | None = None, rotary: float | None = 100.0) -> WaitToAttendLayer:
    memory = KVMemory(retain=retain, read=Delayed(delay, top, rotary=rotary))
    layer = WaitToAttend(memory).build(WIDTH, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def turned(x: Tensor, base: float = 100.0) -> Tensor:
    """x (B, T, H, K), each at its own position."""
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * base ** (
        -torch.arange(K // 2, dtype=torch.float64) * 2 / K
    )
    z = torch.complex(x[..., : K // 2], x[..., K // 2 :]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], -1)


def attention(layer: WaitToAttendLayer, x: Tensor, seen: Tensor) -> Tensor:
    """W_o of softmax attention from every token of x to those that it has seen, (T, T) bool."""
    q, k, v = (y.unflatten(-1, (H, K)) for y in F.linear(x, layer.project.weight).split(WIDTH, -1))
    scores = torch.einsum("bthk,bshk->bhts", turned(q), turned(k)) / math.sqrt(K)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return F.linear(torch.einsum("bhts,bshv->bthv", weights, v).flatten(-2), layer.out.weight)


def aligned(layer: WaitToAttendLayer, x: Tensor) -> Tensor:
    """The outputs in the order of the tokens that they belong to."""
    y, state = layer(x)
    return torch.cat([y, layer.flush(state)], 1)[:, layer.delay :]


AT = torch.arange(T)
LAG = AT[:, None] - AT


@pytest.mark.parametrize("retain", [mn.Everything(), mn.Window(T), LeastRecentlyAttended(T), LeastRecentlyAttended(40)])
def test_nobody_waits_and_everything_is_kept_is_full_causal_attention(retain: Retain) -> None:
    layer, x = layer_of(retain, 0), torch.randn(B, T, WIDTH, dtype=torch.float64)
    y, state = layer(x)
    assert_same(y, attention(layer, x, LAG >= 0))
    assert layer.flush(state).shape == (B, 0, WIDTH)


@pytest.mark.parametrize("delay", [T, T + 6])
@pytest.mark.parametrize("retain", [mn.Everything(), mn.Window(T), LeastRecentlyAttended(T)])
def test_all_wait_for_the_end_and_everything_is_kept_is_full_bidirectional_attention(
    retain: Retain, delay: int
) -> None:
    layer, x = layer_of(retain, delay), torch.randn(B, T, WIDTH, dtype=torch.float64)
    y, _ = layer(x)
    assert not y.any()
    assert_same(aligned(layer, x)[:, :T], attention(layer, x, torch.ones(T, T, dtype=torch.bool))[:, : 2 * T])


@pytest.mark.parametrize(("before", "after"), [(4, 0), (4, 3), (0, 5), (7, 1)])
def test_a_fifo_memory_is_a_window_around_the_query(before: int, after: int) -> None:
    """[t - l, t + r] with l + r + 1 entries; where no more keys come, the last queries see the last entries."""
    size = before + after + 1
    layer, x = layer_of(mn.Window(size), after), torch.randn(B, T, WIDTH, dtype=torch.float64)
    seen = (before >= LAG) & (-after <= LAG)
    seen[T - after :] = T - size <= AT
    assert_same(aligned(layer, x), attention(layer, x, seen))


def test_an_output_comes_with_the_token_that_is_the_delay_later_than_its_own() -> None:
    layer, x = layer_of(mn.Everything(), 4), torch.randn(B, T, WIDTH, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x)
    assert not y[:, :4].any()
    assert_same(y[:, 4:], attention(layer, x, LAG >= -4)[:, :-4])
    (gradient,) = torch.autograd.grad(y[0, 9].square().sum(), x)
    reached = gradient[0].abs().sum(-1) > 0
    assert reached[:10].all() and not reached[10:].any()


@pytest.mark.parametrize("kind", [LeastRecentlyAttended, LeastFrequentlyAttended])
@pytest.mark.parametrize(("delay", "top"), [(0, 2), (3, 2), (3, None), (5, 1)])
@torch.no_grad()
def test_eviction_by_what_the_queries_that_left_attended_to(kind: type, delay: int, top: int | None) -> None:
    """A literal simulation: write, evict, let the oldest query out, attend, take note."""
    budget, recent, threshold = 6, 2, 0.0 if top else 0.2
    layer = layer_of(kind(budget, recent=recent, threshold=threshold), delay, top)
    x = torch.randn(B, 27, WIDTH, dtype=torch.float64)
    q, k, v = (y.unflatten(-1, (H, K)) for y in F.linear(x, layer.project.weight).split(WIDTH, -1))
    q, k = turned(q), turned(k)
    expected = torch.zeros(B, 27, H, K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            worth: dict[int, int] = {}
            for t in range(27):
                worth[t] = t if kind is LeastRecentlyAttended else 0
                if len(worth) > budget:
                    del worth[min((p for p in worth if p <= t - recent), key=lambda p: (worth[p], p))]
                if t < delay:
                    continue
                scores = {p: float(q[b, t - delay, h] @ k[b, p, h]) / math.sqrt(K) for p in worth}
                best = sorted(worth, key=lambda p: -scores[p])[:top]
                weights = torch.tensor([scores[p] for p in best], dtype=torch.float64).softmax(0)
                for p, weight in zip(best, weights.tolist(), strict=True):
                    expected[b, t, h] += weight * v[b, p, h]
                    if weight > threshold:
                        worth[p] = t if kind is LeastRecentlyAttended else worth[p] + 1
    assert_same(layer(x)[0], F.linear(expected.flatten(-2), layer.out.weight))


@pytest.mark.parametrize("policy", ["lra", "lfa", "fifo"])
def test_what_is_attended_to_again_and_again_stays(policy: str) -> None:
    """Two items are asked for in turn, among 40 others; a memory of 8 that forgets the oldest loses them."""
    budget, time, delay = 8, 42, 3
    retain = mn.zoo.attendre(budget, policy=policy, delay=delay, top=1).memory.retain
    k = torch.zeros(1, time, 1, time, dtype=torch.float64)
    k[0, :, 0] = torch.eye(time, dtype=torch.float64)
    q = torch.zeros_like(k)
    q[0, ::2, 0, 0], q[0, 1::2, 0, 1] = 9.0, 9.0
    waited = torch.full((1, time, 1), float(delay), dtype=torch.float64)
    memory = KVMemory(retain=retain, read=Delayed(delay, top=1))
    out, _ = mn.run(memory, q, k, k, {"waited": waited})
    found = out[0, :, 0].argmax(-1)[budget + delay :]
    right = found == torch.arange(budget + delay, time) % 2
    assert bool(right.all()) if policy != "fifo" else not bool(right.any())


def test_queries_in_front_of_the_first_answer_leave_no_trace() -> None:
    """While none is ready, nothing is noted of any entry."""
    layer = layer_of(LeastFrequentlyAttended(40, recent=1, threshold=0.0), 6)
    _, state = layer(torch.randn(B, 9, WIDTH, dtype=torch.float64))
    times = state.child("memory")["statistic.times"]
    assert float(times.max()) == 3.0  # three queries have left the queue, each of which attended to all


def test_what_waits_before_a_reset_is_dropped() -> None:
    layer, x = layer_of(mn.Everything(), 5), torch.randn(1, T, WIDTH, dtype=torch.float64)
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[0, 16] = True
    y, state = layer(x, reset=reset)
    assert not y[:, 16:].any()
    alone, fresh = layer(x[:, 16:])
    assert not alone.any()
    last = layer.flush(state)
    assert_same(last, layer.flush(fresh))
    assert not last[:, :2].any() and bool(last[:, 2:].any(-1).all())


def model_of(*layers: LayerDeclaration) -> mn.LanguageModel:
    spec = mn.ModelSpec(pattern=layers, width=WIDTH, depth=len(layers), heads=H, vocabulary=11, ffn=1.0)
    model = mn.LanguageModel(spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def waiting_model(first: int, second: int) -> mn.LanguageModel:
    """Four blocks, of which the first and the third are late, and keep more than there is."""
    one, two = (
        WaitToAttend(KVMemory(retain=mn.Window(40), read=Delayed(delay, rotary=100.0))) for delay in (first, second)
    )
    plain = mn.LayerSpec(mn.KVMemory(read=mn.Softmax(rotary=100.0)))
    return model_of(one, plain, two, plain)


def block_by_block(model: mn.LanguageModel, tokens: Tensor) -> Tensor:
    """Logits of whole texts: each token of a block sees what is at most its delay ahead."""
    x, lag = model.embedding(tokens), LAG[: tokens.shape[1], : tokens.shape[1]]
    blocks: list[Any] = list(model.blocks)
    for block in blocks:
        late = isinstance(block.layer, WaitToAttendLayer)
        normed = block.norm(x)
        x = x + (attention(block.layer, normed, lag >= -block.layer.delay) if late else block.layer(normed)[0])
        x = block.feed(x)
    return model.answered(model.norm(x))


@pytest.mark.parametrize("cuts", [[T], [4, 1, 5, 9], [1] * T, [2, 0, 17]])
@torch.no_grad()
def test_a_model_waits_with_its_layers(cuts: list[int]) -> None:
    """Delays add up, and what comes out at last belongs to each of the tokens."""
    model, tokens = waiting_model(3, 2), torch.randint(0, 11, (B, T))
    assert model.spec.delay == 5
    pieces, state = [], model.init_state(B)
    for piece in tokens.split(cuts, 1):
        logits, state = model(piece, state)
        pieces.append(logits)
    logits = torch.cat(pieces, 1)
    assert not logits[:, :5].any()
    assert_same(torch.cat([logits, flush(model, state)], 1)[:, 5:], block_by_block(model, tokens), 1e-10)


@pytest.mark.parametrize("delays", [(3, 2), (1, 4), (2, 0)])
@pytest.mark.parametrize("lengths", [(1, 4), (2, 19), (6, 0), (5, 3)])
@torch.no_grad()
def test_flushing_rows_that_have_seen_little(lengths: tuple[int, int], delays: tuple[int, int]) -> None:
    """Every row by itself, and the state as it was."""
    model, tokens, delay = waiting_model(*delays), torch.randint(0, 11, (B, T)), sum(delays)
    mask = torch.tensor(lengths)[:, None] > AT
    logits, state = model(tokens, mask=mask)
    before = {name: x.clone() for name, x in state.tensors()}
    last = flush(model, state)
    assert all(torch.equal(x, before[name]) for name, x in state.tensors())
    for b, length in enumerate(lengths):
        here = torch.cat([logits[b, :length], last[b]])[delay:]
        assert here.shape == (length, 11)
        if length:
            assert_same(here, block_by_block(model, tokens[b : b + 1, :length])[0], 1e-10)
        assert not last[b, : max(delay - length, 0)].any()


def test_delays_of_nothing_are_the_plain_layer() -> None:
    plain, waiting = mn.zoo.attendre(6), mn.zoo.attendre(6, top=6)
    one, other = plain.build(WIDTH, H).double(), waiting.build(WIDTH, H).double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(B, 7, WIDTH, dtype=torch.float64)
    assert_same(one(x)[0][:, :6], other(x)[0][:, :6])


LATE = WaitToAttend(KVMemory(read=Delayed(2)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Delayed(-1), InvalidValue, "Delayed(delay=) is a number of tokens, at least 0; got -1."),
        (lambda: Delayed(top=0), InvalidValue, "Delayed(top=) is a number of entries of at least 1, or None for all"),
        (lambda: Delayed(scale=-1.0), InvalidValue, "Delayed(scale=) must be positive; got -1.0."),
        (lambda: WaitToAttend(mn.KVMemory()), InvalidType, "WaitToAttend(memory=KVMemory(read= takes a Delayed"),
        (
            lambda: mn.LayerSpec(mn.KVMemory(read=Delayed(2))),
            InvalidValue,
            "a memory that is read by Delayed goes into WaitToAttend(memory)",
        ),
        (lambda: WaitToAttend(kv_heads=0), InvalidValue, "WaitToAttend(kv_heads=) is at least 1; got 0."),
        (
            lambda: WaitToAttend(kv_heads=3).build(8, 2),
            InvalidValue,
            "heads must be a multiple of kv_heads; got 2 and 3",
        ),
        (lambda: AsGate(mn.zoo.deltanet(), LATE), InvalidValue, "AsGate(gate=) needs the output for a token with the"),
        (lambda: FourierInput(LATE), InvalidValue, "FourierInput(layer=) needs the output for a token with the token"),
        (
            lambda: mn.ModelSpec(pattern=(LATE,), segments=MemoryTokens(4)),
            InvalidValue,
            "ModelSpec(segments=) is for layers that answer at once; those of WaitToAttend do not.",
        ),
        (
            lambda: generate(model_of(LATE), torch.zeros(1, 3, dtype=torch.int64), length=1),
            InvalidValue,
            "this model's logits come 2 tokens late",
        ),
        (
            lambda: flush(model_of(mn.zoo.attendre()), model_of(mn.zoo.attendre()).init_state(1)),
            InvalidValue,
            "flush is for models whose layers answer late",
        ),
    ],
)
def test_what_cannot_be_is_said(make: object, error: type[Exception], message: str) -> None:
    assert callable(make)
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)
