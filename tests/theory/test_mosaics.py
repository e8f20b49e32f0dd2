"""Memory Mosaics (arXiv 2405.06394): kernel regression over pairs whose values look one step ahead, written literally
from the paper's formulas, and what follows from them."""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import ContextualMemory, ContextualMemoryLayer, PersistentMemory, PersistentMemoryLayer
from mnemos.layers.leaky_keys import LeakyKeys
from mnemos.memory import LocalLinear

Module = TypeVar("Module", bound=torch.nn.Module)

B, T, H, WIDTH = 2, 11, 3, 12
K = WIDTH // H


def contextual(memory: mn.KVMemory | None = None, heads: int = H, width: int = WIDTH) -> ContextualMemoryLayer:
    """A unit in float64, every learned number somewhere else than at its start."""
    spec = ContextualMemory() if memory is None else ContextualMemory(memory)
    return moved(spec.build(width, heads))


def persistent(entries: int = 7) -> PersistentMemoryLayer:
    return moved(PersistentMemory(entries).build(WIDTH, H))


def moved(layer: Module) -> Module:
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return layer


def inputs(time: int = T, width: int = WIDTH) -> Tensor:
    return torch.randn(B, time, width, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance


# The paper, one number after another.


@torch.no_grad()
def literal_keys(keys: LeakyKeys, x: Tensor, power: float) -> list[list[list[Tensor]]]:
    """k[b][h][t], every sum taken anew."""
    u = (x @ keys.project.weight.T).unflatten(-1, (keys.heads, -1))
    found = []
    for b in range(x.shape[0]):
        heads = []
        for h in range(keys.heads):
            beta, a = float(10 * keys.leak[h].abs()), float(10 * keys.scale[h])
            row = []
            for t in range(x.shape[1]):
                s = torch.stack([math.exp(-beta * (t - i)) * u[b, i, h] for i in range(t + 1)]).sum(0)
                row.append(math.exp(min(power * a, 5.0)) * s / s.norm())
            heads.append(row)
        found.append(heads)
    return found


@torch.no_grad()
def literal_values(layer: ContextualMemoryLayer, x: Tensor, b: int, h: int) -> list[Tensor]:
    """v[t] for all t but the last, whose x_t+1 is missing."""
    w = (x @ layer.value.weight.T).unflatten(-1, (layer.heads, -1))[b, :, h]
    c, scale = float(layer.present[h]), math.exp(10 * float(layer.value_scale[h]))
    mixed = [(1 - c) * w[t + 1] + c * w[t] for t in range(len(w) - 1)]
    return [scale * z / z.norm() for z in mixed]


def nadaraya_watson(k: Tensor, keys: list[Tensor], values: list[Tensor], beta: float) -> Tensor:
    """sum_i exp(-beta |k - k_i|^2) v_i / sum_i exp(-beta |k - k_i|^2)."""
    weights = [math.exp(-beta * float((k - key).square().sum())) for key in keys]
    return torch.stack([w * v for w, v in zip(weights, values, strict=True)]).sum(0) / sum(weights)


@torch.no_grad()
def literal(layer: ContextualMemoryLayer, x: Tensor, beta: float = 0.5, window: int | None = None) -> Tensor:
    """y of the contextual unit."""
    keys = literal_keys(layer.keys, x, 1.0)
    out = torch.zeros(*x.shape[:2], layer.heads, x.shape[-1] // layer.heads, dtype=x.dtype)
    for b in range(x.shape[0]):
        for h in range(layer.heads):
            values = literal_values(layer, x, b, h)
            for t in range(1, x.shape[1]):
                seen = slice(0 if window is None else max(t - window, 0), t)
                out[b, t, h] = nadaraya_watson(keys[b][h][t], keys[b][h][seen], values[seen], beta)
    return out.flatten(2) @ layer.out.weight.T


@pytest.mark.parametrize("time", [1, 2, 3, T])
def test_the_contextual_unit_is_nadaraya_watson(time: int) -> None:
    layer, x = contextual(), inputs(time)
    assert_same(layer(x)[0], literal(layer, x))


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_another_bandwidth_is_another_scale_of_the_softmax(beta: float) -> None:
    """With keys of one length, the kernel exp(-beta |q - k|^2) is the softmax of 2 beta q.k."""
    layer, x = contextual(mn.KVMemory(read=mn.Softmax(scale=2 * beta))), inputs()
    assert_same(layer(x)[0], literal(layer, x, beta))


@pytest.mark.parametrize("beta", [0.02, 0.5, 2.0])
def test_softmax_attention_on_keys_of_one_length_is_nadaraya_watson(beta: float) -> None:
    """Logits 2 beta q.k give the weights of the kernel exp(-beta |q - k|^2), whatever the common length."""
    q, k, v = (torch.randn(1, T, 1, K, dtype=torch.float64) for _ in range(3))
    k = 3 * torch.nn.functional.normalize(k, dim=-1)
    out, _ = mn.run(mn.KVMemory(read=mn.Softmax(scale=2 * beta)), q, k, v)
    for t in range(T):
        seen = list(k[0, : t + 1, 0]), list(v[0, : t + 1, 0])
        assert_same(out[0, t, 0], nadaraya_watson(q[0, t, 0], *seen, beta))


@pytest.mark.parametrize("window", [1, 3, 64])
def test_a_window_keeps_the_last_pairs(window: int) -> None:
    layer = contextual(mn.KVMemory(retain=mn.Window(window), read=mn.Softmax(scale=1.0)))
    x = inputs()
    assert_same(layer(x)[0], literal(layer, x, window=window))


def test_reading_by_lines_is_weighted_least_squares() -> None:
    """argmin_b,W sum_t p_t |v_t - b - W (k_t - k_T)|^2 + ridge |W|^2, by a least squares solver."""
    layer = contextual(mn.KVMemory(read=LocalLinear(0.3, scale=1.0)), heads=1, width=3)
    x = inputs(6, 3)[:1]
    keys, values = literal_keys(layer.keys, x, 1.0)[0][0], literal_values(layer, x, 0, 0)
    out = layer(x)[0]
    for t in range(1, 6):
        near, follow = torch.stack(keys[:t]), torch.stack(values[:t])
        p = torch.exp(-0.5 * (near - keys[t]).square().sum(-1))
        p = (p / p.sum()).sqrt()[:, None]
        ridge = 0.3**0.5 * torch.cat([torch.zeros(3, 1), torch.eye(3)], 1).double()
        rows = torch.cat([p * torch.cat([torch.ones_like(p), near - keys[t]], 1), ridge])
        sides = torch.cat([p * follow, torch.zeros(3, 3, dtype=torch.float64)])
        assert_same(out[0, t], torch.linalg.lstsq(rows, sides).solution[0] @ layer.out.weight.T)


# The leaky sum.


@pytest.mark.parametrize("leak", [0.0, 0.03, -0.2])
def test_the_leaky_sum_in_closed_form(leak: float) -> None:
    keys = moved(LeakyKeys(WIDTH, H))
    keys.leak.data.fill_(leak)
    x = inputs(40)
    state = keys.fresh_state().expand(B)
    found, after = keys(x, state, None)
    u = (x @ keys.project.weight.T).unflatten(-1, (H, -1))
    age = torch.arange(40)[:, None] - torch.arange(40)
    weights = torch.where(age >= 0, math.exp(-10 * abs(leak)) ** age.clamp(min=0).double(), 0.0)
    total = torch.einsum("ts,bshk->bthk", weights, u)
    assert_same(after["matrix"][..., 0], total[:, -1], 1e-9)
    length = torch.exp(10 * keys.scale)[:, None]
    assert_same(found, length * total / total.norm(dim=-1, keepdim=True))


def test_a_leak_without_end_forgets_everything_before() -> None:
    """exp(-10 |b|) = 0 exactly: a key is a function of its own token."""
    keys = moved(LeakyKeys(WIDTH, H))
    keys.leak.data.fill_(100.0)
    x = inputs()
    found, _ = keys(x, keys.fresh_state().expand(B), None)
    alone = torch.cat([keys(x[:, t : t + 1], keys.fresh_state().expand(B), None)[0] for t in range(T)], 1)
    assert_same(found, alone, 1e-13)


def test_leaks_start_between_a_half_and_five_and_keys_at_length_e() -> None:
    keys = LeakyKeys(WIDTH, H).double()
    assert_same(10 * keys.leak, torch.tensor([0.5, 2.75, 5.0], dtype=torch.float64), 1e-6)
    found, _ = keys(inputs(), keys.fresh_state().expand(B), None)
    assert_same(found.norm(dim=-1), torch.full((B, T, H), math.e, dtype=torch.float64), 1e-6)


def test_key_lengths_are_bounded() -> None:
    """At e^5, also for the persistent unit, whose exponent is doubled before."""
    for power, scale, expected in ((1.0, 0.45, 4.5), (1.0, 0.7, 5.0), (2.0, 0.2, 4.0), (2.0, 0.45, 5.0)):
        keys = moved(LeakyKeys(WIDTH, H, power))
        keys.scale.data.fill_(scale)
        found, _ = keys(inputs(), keys.fresh_state().expand(B), None)
        assert_same(found.norm(dim=-1).log(), torch.full((B, T, H), expected, dtype=torch.float64), 1e-8)


# Which pairs are seen.


def reaching(layer: ContextualMemoryLayer, t: int) -> list[int]:
    """The tokens whose W_v x reaches the output of token t."""
    held: list[Tensor] = []

    def hold(module: torch.nn.Module, args: object, out: Tensor) -> None:
        held.append(out)

    handle = layer.value.register_forward_hook(hold)
    y, _ = layer(inputs())
    handle.remove()
    (gradient,) = torch.autograd.grad(y[:, t].square().sum(), held[0])
    return [i for i in range(T) if gradient[:, i].any()]


@pytest.mark.parametrize("t", [1, 2, 7])
def test_no_token_reads_its_own_pair(t: int) -> None:
    """v_s is made of tokens s (c = 1) or s + 1 (c = 0), and token t reads those of s < t."""
    layer = contextual()
    layer.present.data.fill_(1.0)
    assert reaching(layer, t) == list(range(t))
    layer.present.data.zero_()
    assert reaching(layer, t) == list(range(1, t + 1))
    layer.present.data.fill_(0.3)
    assert reaching(layer, t) == list(range(t + 1))


def test_the_first_token_reads_nothing_and_the_second_the_only_pair() -> None:
    layer, x = contextual(), inputs()
    y, _ = layer(x)
    assert not y[:, 0].any()
    only = torch.stack([torch.cat([literal_values(layer, x, b, h)[0] for h in range(H)]) for b in range(B)])
    assert_same(y[:, 1], only @ layer.out.weight.T)


def test_a_value_needs_the_next_token_and_its_reader_does_not() -> None:
    layer, x = contextual(), inputs()
    other = x.clone()
    other[:, 6] += 1
    one, two = layer(x)[0], layer(other)[0]
    assert torch.equal(one[:, :6], two[:, :6])
    assert not torch.equal(one[:, 6], two[:, 6])
    first, second = (literal_values(layer, z, 0, 0) for z in (x, other))
    assert not torch.equal(first[5], second[5]), "v_5 looks at token 6"


def test_a_token_reaches_its_answer_by_its_key_and_by_the_value_before_it() -> None:
    layer = contextual()
    held: dict[str, Tensor] = {}
    for name, module in (("key", layer.keys.project), ("value", layer.value)):
        module.register_forward_hook(lambda module, args, out, name=name: held.__setitem__(name, out))
    y, _ = layer(inputs())
    for t in (1, 2, 7):
        by_key, by_value = torch.autograd.grad(y[:, t].square().sum(), [held["key"], held["value"]], retain_graph=True)
        assert by_value[:, t].all(-1).all()
        assert by_key[:, t].all(-1).all() == (t > 1), "a single pair is answered whatever is asked"


def test_answers_are_no_longer_than_values() -> None:
    """exp(10 r) in each head, reached where there is one value only."""
    layer = contextual()
    read, _ = values_of(layer, inputs())
    length = torch.exp(10 * layer.value_scale.detach()).flatten()
    assert (read.norm(dim=-1) <= length + 1e-12).all()
    assert_same(read[:, 1].norm(dim=-1), length.expand(B, H))


def test_the_last_pair_waits_in_the_state() -> None:
    layer, x = contextual(), inputs(1)
    _, state = layer(x)
    assert not (state.child("memory")["slot"] > 0).any(), "nothing is complete yet"
    _, state = layer(inputs(3), state)
    assert (state.child("memory")["slot"] > 0).sum(1).tolist() == [3] * B
    assert state["count"].tolist() == [4] * B


def test_documents_do_not_complete_each_others_pairs() -> None:
    """The last pair of a document is never complete: the next one starts with nothing to read."""
    layer, x = contextual(), inputs()
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 4], reset[1, [1, 2, 8]] = True, True
    y, _ = layer(x, reset=reset)
    for row, cuts in ((0, (0, 4, T)), (1, (0, 1, 2, 8, T))):
        for start, end in itertools.pairwise(cuts):
            assert not y[row, start].any()
            assert_same(y[row : row + 1, start:end], literal(layer, x[row : row + 1, start:end]))


# What kernel regression does.


def values_of(layer: ContextualMemoryLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the unit reads, (B, T, H, K), and the values v (B, T - 1, H, K)."""
    layer.out.weight.data.copy_(torch.eye(x.shape[-1]))
    read = layer(x)[0].unflatten(-1, (layer.heads, -1))
    values = [torch.stack([torch.stack(literal_values(layer, x, b, h)) for h in range(layer.heads)], 1) for b in (0, 1)]
    return read.detach(), torch.stack(values).detach()


def test_answers_lie_among_the_values() -> None:
    """Convex combinations: in every direction between the smallest and the largest of the values read."""
    read, values = values_of(contextual(), inputs())
    along = torch.randn(20, K, dtype=torch.float64)
    for t in range(1, T):
        seen, answer = values[:, :t] @ along.T, read[:, t] @ along.T
        assert (answer <= seen.amax(1) + 1e-12).all() and (answer >= seen.amin(1) - 1e-12).all()


def test_a_narrow_kernel_finds_the_nearest_key_and_a_wide_one_the_mean() -> None:
    layer, x = contextual(mn.KVMemory(read=mn.Softmax(scale=100.0))), inputs()
    layer.keys.scale.data.fill_(0.5)
    read, values = values_of(layer, x)
    keys = literal_keys(layer.keys, x, 1.0)
    for b in range(B):
        for h in range(H):
            for t in range(1, T):
                distances = torch.stack([(keys[b][h][t] - key).norm() for key in keys[b][h][:t]])
                assert_same(read[b, t, h], values[b, int(distances.argmin()), h], 1e-9)
    layer.keys.scale.data.fill_(-3.0)
    read, values = values_of(layer, x)
    assert_same(read[:, 1:], values.cumsum(1) / torch.arange(1, T)[:, None, None], 1e-9)


def test_one_unit_is_an_induction_head() -> None:
    """... A B ... A recalls B: keys describe the token, values the one that followed. Attention needs two layers."""
    layer = contextual(heads=1)
    layer.keys.leak.data.fill_(100.0)
    layer.keys.scale.data.fill_(0.45)
    layer.present.data.zero_()
    layer.out.weight.data.copy_(torch.eye(WIDTH))
    words = torch.nn.functional.normalize(torch.randn(8, WIDTH, dtype=torch.float64), dim=-1)
    text = [0, 1, 2, 3, 4, 5, 1, 6, 7, 3]
    y, _ = layer(words[text][None])
    followers = words @ layer.value.weight.T
    recalled = torch.nn.functional.cosine_similarity(y[0, :, None], followers[None], dim=-1)
    assert recalled[6].argmax() == 2 and recalled[6].max() > 0.999, "1 was followed by 2"
    assert recalled[9].argmax() == 4 and recalled[9].max() > 0.999, "3 was followed by 4"


def test_three_units_know_three_moons_long_before_one_unit_does() -> None:
    """The paper's example, its projections given, not learned: moons with periods 5, 7 and 8, seen together. Three
    units, one for each moon, predict all of them after 8 steps; a single unit for everything waits 280."""
    time = 300
    angle = 2 * math.pi * torch.arange(time + 1).double()[:, None] / torch.tensor([5, 7, 8])
    moons = torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    mixing, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    seen = (moons @ mixing.T)[None]
    wrong = {}
    for heads, length in ((3, 1.0), (1, 3**0.5)):  # of each unit's part of what is seen
        layer = contextual(heads=heads, width=6)
        layer.keys.leak.data.fill_(100.0)
        layer.keys.scale.data.fill_(0.5)
        layer.present.data.zero_()
        layer.value_scale.data.zero_()
        for linear in (layer.keys.project, layer.value):
            linear.weight.data.copy_(mixing.T)
        layer.out.weight.data.copy_(length * mixing)
        wrong[heads] = (layer(seen[:, :-1])[0] - seen[:, 1:]).abs().amax(-1)[0]
    assert (wrong[3][8:] < 1e-9).all()
    assert (wrong[1][:280] > 0.1).all() and (wrong[1][280:] < 1e-9).all()


# The persistent unit.


def test_the_persistent_unit_is_a_read_of_its_bank() -> None:
    layer, x = persistent(), inputs()
    with torch.no_grad():
        queries = literal_keys(layer.keys, x, 2.0)
        out = torch.zeros(B, T, H, K, dtype=torch.float64)
        for b in range(B):
            for h in range(H):
                for t in range(T):
                    scores = [math.exp(float(queries[b][h][t] @ p)) for p in layer.bank_keys[h]]
                    held = sum(s * v for s, v in zip(scores, layer.bank_values[h], strict=True))
                    out[b, t, h] = math.exp(10 * float(layer.value_scale[h])) * held / sum(scores)
        assert_same(layer(x)[0], out.flatten(2) @ layer.out.weight.T)


def test_a_bank_of_unit_keys_is_kernel_regression_too() -> None:
    """q of length e^2a on keys of length 1: the same kernel as exp(-beta |q / e^2a - P|^2) with beta = e^2a / 2."""
    layer, x = persistent(), inputs(3)
    with torch.no_grad():
        layer.bank_keys.copy_(torch.nn.functional.normalize(layer.bank_keys, dim=-1))
        layer.out.weight.copy_(torch.eye(WIDTH))
        layer.value_scale.zero_()
        y = layer(x)[0].unflatten(-1, (H, -1))
        queries = literal_keys(layer.keys, x, 2.0)
        for h in range(H):
            length = float(torch.exp(20 * layer.keys.scale[h]))
            bank = list(layer.bank_keys[h]), list(layer.bank_values[h])
            for t in range(3):
                assert_same(y[0, t, h], nadaraya_watson(queries[0][h][t] / length, *bank, length / 2))


def test_a_persistent_unit_keeps_nothing_but_a_sum() -> None:
    layer = persistent()
    _, state = layer(inputs())
    assert state.nbytes == layer.init_state(B).nbytes == B * WIDTH * 8


# The model.


def test_a_mosaic_alternates_the_two_units_and_has_no_feed_forward() -> None:
    spec = mn.zoo.memory_mosaics(entries=5).replace(width=WIDTH, heads=H, depth=4, vocabulary=9)
    model = mn.LanguageModel(spec)
    kinds = [type(layer) for layer in model.layers()]
    assert kinds == [ContextualMemoryLayer, PersistentMemoryLayer] * 2
    assert not any("ffn" in name for name, _ in model.named_parameters())
    assert mn.zoo.memory_mosaics().pattern[1] == PersistentMemory(2688)
