"""What softmax attention over a window, with sinks and with rotary positions, must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn

B, T, H, K = 2, 29, 2, 4


def inputs(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: int = T, sinks: int = 0, scale: float = 1 / math.sqrt(K)
) -> Tensor:
    """Masked softmax attention, dense."""
    time = q.shape[1]
    distance = torch.arange(time)[:, None] - torch.arange(time)
    seen = (distance >= 0) & ((distance < window) | (torch.arange(time) < sinks))
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    return torch.einsum("bhts,bshv->bthv", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def rotated(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Channel i paired with i + K/2, by complex numbers."""
    angle = positions[:, None] * base ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
    turned = torch.complex(x[..., : K // 2], x[..., K // 2 :]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], -1)


def run(memory: mn.KVMemory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return mn.run(memory, q, k, v)[0]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


ROTARY = mn.Softmax(rotary=100.0)


def test_full_attention_is_masked_softmax() -> None:
    q, k, v = inputs()
    assert_same(run(mn.KVMemory(), q, k, v), attention(q, k, v))
    assert_same(run(mn.KVMemory(read=mn.Softmax(scale=0.3)), q, k, v), attention(q, k, v, scale=0.3))


@pytest.mark.parametrize("window", [1, 2, 5, 28, 29, 64])
@pytest.mark.parametrize("sinks", [0, 1, 3])
def test_windows_with_sinks_are_masked_softmax(window: int, sinks: int) -> None:
    q, k, v = inputs()
    assert_same(run(mn.KVMemory(retain=mn.Window(window, sinks)), q, k, v), attention(q, k, v, window, sinks))


def test_rotary_positions_are_complex_rotations() -> None:
    q, k, v = inputs()
    at = torch.arange(T, dtype=torch.float64)
    assert_same(run(mn.KVMemory(read=ROTARY), q, k, v), attention(rotated(q, at, 100.0), rotated(k, at, 100.0), v))


@pytest.mark.parametrize("read", [mn.Softmax(), ROTARY], ids=str)
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_window_as_long_as_the_sequence_is_full_attention(read: mn.Softmax, sinks: int) -> None:
    q, k, v = inputs()
    full = run(mn.KVMemory(read=read), q, k, v)
    for size in (T, T - sinks, T + 10):
        assert_same(run(mn.KVMemory(retain=mn.Window(size, sinks), read=read), q, k, v), full)


def test_a_window_of_one_gives_the_value_back() -> None:
    q, k, v = inputs()
    assert torch.equal(run(mn.KVMemory(retain=mn.Window(1)), q, k, v), v)


@pytest.mark.parametrize("sinks", [0, 2])
def test_nothing_comes_from_outside_the_band(sinks: int) -> None:
    q, k, v = inputs()
    v.requires_grad_(), k.requires_grad_()
    out = run(mn.KVMemory(retain=mn.Window(5, sinks), read=ROTARY), q, k, v)
    for t in (0, 3, 11, 28):
        for gradient in torch.autograd.grad(out[:, t].square().sum(), (k, v), retain_graph=True):
            moved = gradient.abs().sum((0, 2, 3)) > 0
            kept = {p for p in range(t + 1) if t - p < 5 or p < sinks}
            assert {i for i, m in enumerate(moved.tolist()) if m} <= kept
        (gradient,) = torch.autograd.grad(out[:, t].square().sum(), v, retain_graph=True)
        assert {i for i, m in enumerate((gradient != 0).any(-1).any(-1).any(0).tolist()) if m} == kept


def test_the_reach_of_stacked_windows() -> None:
    """After D layers nothing comes from further away than D (window - 1)."""
    spec = mn.ModelSpec(pattern=(mn.zoo.sliding_window(4, sinks=0),), width=8, depth=3, heads=1, vocabulary=5)
    model = mn.LanguageModel(spec).double()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits, _ = model(torch.randint(0, 5, (1, 20)))
    (gradient,) = torch.autograd.grad(logits[0, 19].square().sum(), embedded)
    assert not gradient[0, : 19 - 9].any() and gradient[0, 19 - 9 :].all(-1).all()


@pytest.mark.parametrize(
    ("count", "kept"), [(1, [0]), (3, [0, 1, 2]), (7, [0, 1, 2, 3, 4, 5, 6]), (8, [0, 1, 3, 4, 5, 6, 7])]
)
def test_sinks_and_the_recent_are_kept(count: int, kept: list[int]) -> None:
    window = mn.Window(5, sinks=2)
    assert list(window.kept(count)) == kept and window.capacity == 7
    q, k, v = inputs(count)
    _, state = mn.run(mn.KVMemory(retain=window), q, k, v)
    assert sorted(s - 1 for s in state["slot"][0].tolist() if s) == kept
    for row in range(B):
        for place, slot in enumerate(state["slot"][row].tolist()):
            if slot:
                assert torch.equal(state["keys"][row, place], k[row, slot - 1])


def test_positions_are_counted_within_the_kept_entries() -> None:
    """However long the stream, what is seen is rotary attention over the kept entries renumbered from 0: distances
    to sinks stay below the capacity."""
    window = mn.Window(5, sinks=2)
    q, k, v = inputs()
    out = run(mn.KVMemory(retain=window, read=ROTARY), q, k, v)
    for t in range(T):
        kept = torch.tensor(window.kept(t + 1))
        at = torch.arange(len(kept), dtype=torch.float64)
        query = rotated(q[:, t : t + 1], at[-1:], 100.0)
        weights = torch.einsum("bthk,bshk->bhts", query, rotated(k[:, kept], at, 100.0)).div(math.sqrt(K)).softmax(-1)
        assert_same(out[:, t], torch.einsum("bhts,bshv->bthv", weights, v[:, kept])[:, 0])


def test_without_sinks_counting_the_kept_entries_is_counting_the_stream() -> None:
    """What is kept is then in one piece, and only distances matter."""
    q, k, v = inputs()
    at = torch.arange(T, dtype=torch.float64)
    expected = attention(rotated(q, at, 100.0), rotated(k, at, 100.0), v, 5)
    for read in (ROTARY, ROTARY.replace(positions="original")):
        assert_same(run(mn.KVMemory(retain=mn.Window(5), read=read), q, k, v), expected)


@pytest.mark.parametrize("sinks", [0, 2])
def test_turned_keys_that_move_up_with_every_eviction(sinks: int) -> None:
    """Another way to do it: keys are kept turned, and those behind a dropped one are turned back by one place."""
    window = mn.Window(5, sinks)
    q, k, v = inputs()
    out = run(mn.KVMemory(retain=window, read=ROTARY), q, k, v)
    keys, values = k[:, :0], v[:, :0]
    for t in range(T):
        if t >= window.size + sinks:
            moved = rotated(keys[:, sinks + 1 :], torch.tensor([-1.0]).double(), 100.0)
            keys, values = (
                torch.cat([x[:, :sinks], y], 1) for x, y in ((keys, moved), (values, values[:, sinks + 1 :]))
            )
        here = torch.tensor([float(keys.shape[1])]).double()
        keys = torch.cat([keys, rotated(k[:, t : t + 1], here, 100.0)], 1)
        values = torch.cat([values, v[:, t : t + 1]], 1)
        asked = rotated(q[:, t : t + 1], here, 100.0)
        weights = torch.einsum("bthk,bshk->bhts", asked, keys).div(math.sqrt(K)).softmax(-1)
        assert_same(out[:, t], torch.einsum("bhts,bshv->bthv", weights, values)[:, 0])


@pytest.mark.parametrize(("time", "window"), [(30, 5), (31, 5), (32, 8), (39, 8), (30, 15)])
@pytest.mark.parametrize("sinks", [0, 3])
def test_sequences_that_windows_divide_and_others(time: int, window: int, sinks: int) -> None:
    """Whole blocks of queries only, and a last one that is cut off."""
    q, k, v = inputs(time)
    assert_same(run(mn.KVMemory(retain=mn.Window(window, sinks)), q, k, v), attention(q, k, v, window, sinks))


def test_what_was_dropped_has_no_effect() -> None:
    q, k, v = inputs()
    memory = mn.KVMemory(retain=mn.Window(5, sinks=2), read=ROTARY)
    out = run(memory, q, k, v)
    k2, v2 = k.clone(), v.clone()
    k2[:, 2:20], v2[:, 2:20] = 7, -3
    assert torch.equal(run(memory, q, k2, v2)[:, 24:], out[:, 24:])


@pytest.mark.parametrize("retain", [mn.Everything(), mn.Window(5, sinks=1)], ids=str)
def test_grouped_heads_are_repeated_heads(retain: mn.Everything | mn.Window) -> None:
    memory = mn.KVMemory(retain=retain, read=ROTARY)
    q = torch.randn(B, T, 3 * H, K, dtype=torch.float64)
    _, k, v = inputs()
    whole = run(memory, q, k.repeat_interleave(3, 2), v.repeat_interleave(3, 2))
    assert_same(run(memory, q, k, v), whole)


def test_an_empty_memory_answers_zero() -> None:
    memory = mn.KVMemory()
    state = memory.init(B, H, K, K, dtype=torch.float64)
    assert not memory.read(state, torch.randn(B, H, K, dtype=torch.float64)).any()
    window = mn.KVMemory(retain=mn.Window(3, sinks=1), read=ROTARY)
    state = window.init(B, H, K, K, dtype=torch.float64)
    assert not window.read(state, torch.randn(B, H, K, dtype=torch.float64)).any()


def test_patterns_in_patterns_out() -> None:
    """With a sharp scale, a key-value store is a dictionary."""
    memory = mn.KVMemory(read=mn.Softmax(scale=1e4))
    keys = torch.nn.functional.normalize(torch.randn(1, 6, 1, 32, dtype=torch.float64), dim=-1)
    values = torch.randn(1, 6, 1, K, dtype=torch.float64)
    state = memory.init(1, 1, 32, K, dtype=torch.float64)
    for t in range(6):
        state = memory.write(state, keys[:, t], values[:, t])
    for t in range(6):
        assert_same(memory.read(state, keys[:, t]), values[:, t])
