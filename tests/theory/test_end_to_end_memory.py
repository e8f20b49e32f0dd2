"""What end-to-end memory networks must satisfy (arXiv 1503.08895): the hops of a read, and the model of stories."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.memory import Hops, Relative
from mnemos.models import EndToEndMemory, EndToEndMemorySpec

B, T, H, K = 2, 11, 2, 4
WORDS, WIDTH = 9, 6


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, T, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v


def hops(number: int, carry: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    memory = mn.KVMemory(read=Hops(number, mn.Softmax(scale=1.0)))
    return mn.run(memory, q, k, v, {"carry": carry})[0]


def a_model(**options: Any) -> EndToEndMemory:
    return EndToEndMemorySpec(WORDS, **{"width": WIDTH, "memories": 7, **options}).build().double()


def a_story(sentences: int = 5) -> tuple[Tensor, Tensor]:
    """Sentences of two to four words, filled up with nil."""
    story, question = torch.randint(1, WORDS, (B, sentences, 4)), torch.randint(1, WORDS, (B, 3))
    story[:, ::2, 3:] = 0
    story[1, -1, 2:] = 0
    return story, question


# The read.


def test_one_hop_without_a_carry_is_single_head_attention() -> None:
    q, k, v = qkv()
    plain, _ = mn.run(mn.KVMemory(read=mn.Softmax(scale=1.0)), q, k, v)
    assert_same(hops(1, torch.zeros_like(q), q, k, v), plain)
    assert_same(hops(1, torch.ones_like(q), q, k, v), q + plain)


def test_hops_are_written_out() -> None:
    q, k, v = qkv()
    carry = torch.randn(K, dtype=torch.float64)
    found = hops(3, carry.expand_as(q), q, k, v)
    for t in (0, 3, T - 1):
        u = q[0, t, 1]
        for _ in range(3):
            p = torch.softmax(k[0, : t + 1, 1] @ u, 0)
            u = torch.diag(carry) @ u + p @ v[0, : t + 1, 1]
        assert_same(found[0, t, 1], u)


def test_a_hop_with_keys_for_values_is_the_same_hop_again() -> None:
    """H = 1, C = A: three hops are one hop, asked with what one hop answered, three times."""
    q, k, _ = qkv()
    one = torch.ones_like(q)
    u = q
    for _ in range(3):
        u = hops(1, one, u, k, k)
    assert_same(hops(3, one, q, k, k), u)


def test_a_diagonalisable_carry_is_a_diagonal_one_in_another_basis() -> None:
    """H = P D P^-1 in the paper's recurrence, by u' = P^-1 u, m' = P^T m, c' = P^-1 c."""
    q, k, v = qkv()
    p, d = torch.randn(K, K, dtype=torch.float64) + 2 * torch.eye(K), torch.randn(K, dtype=torch.float64)
    h, back = p @ torch.diag(d) @ p.inverse(), p.inverse()
    found = hops(3, d.expand_as(q), q @ back.T, k @ p, v @ back.T) @ p.T
    t = T - 1
    u = q[1, t, 0]
    for _ in range(3):
        u = h @ u + torch.softmax(k[1, :, 0] @ u, 0) @ v[1, :, 0]
    assert_same(found[1, t, 0], u, 1e-8)


def test_every_hop_asks_the_read_with_its_own_controls() -> None:
    q, k, v = qkv()
    bias = torch.randn(B, T, H, T, dtype=torch.float64)
    memory = mn.KVMemory(read=Hops(2, Relative(T, scale=1.0)))
    found, _ = mn.run(memory, q, k, v, {"carry": torch.ones_like(q), "bias": bias})
    t, u = 6, q[0, 6, 0]
    for _ in range(2):
        scores = k[0, : t + 1, 0] @ u + bias[0, t, 0, : t + 1].flip(0)
        u = u + torch.softmax(scores, 0) @ v[0, : t + 1, 0]
    assert_same(found[0, t, 0], u)


def test_an_empty_memory_answers_zero() -> None:
    memory, q = mn.KVMemory(read=Hops(2)), torch.randn(B, H, K, dtype=torch.float64)
    state = memory.init(B, H, K, K, dtype=torch.float64)
    assert not memory.read(state, q, {"carry": torch.ones_like(q)}).any()


def test_a_layer_learns_its_carry() -> None:
    layer = mn.MemoryLayer(mn.zoo.memn2n(hops=2, window=5), width=8, heads=2)
    layer(torch.randn(1, 9, 8))[0].square().sum().backward()
    raw = dict(layer.named_parameters())["controls.carry.raw"]
    assert raw.shape == (2, 4) and raw.grad is not None and bool((raw.grad != 0).all())
    assert_same(layer.controls["carry"](torch.zeros(1, 1, 8)), torch.ones(1, 1, 2, 4), 1e-6)


def test_hops_that_cannot_be() -> None:
    for given, message in (
        ({"hops": 0}, "at least 1"),
        ({"read": Hops(2)}, "one hop"),
        ({"read": mn.Softmax(rotary=100.0)}, "no rotary position"),
        ({"read": "softmax"}, "takes a Read"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            Hops(**given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(mn.MnemosError, match="got 4 and 3"):
        mn.KVMemory(read=Hops()).init(1, 1, 4, 3)


def test_more_hops_cost_more() -> None:
    costs = [mn.MemoryLayer(mn.zoo.memn2n(hops=n), width=8, heads=2).plan(200).flops for n in (1, 3)]
    assert costs[1] == 3 * costs[0]


# The model.


def literally(model: EndToEndMemory, story: Tensor, question: Tensor) -> Tensor:
    """The paper's equations for one story, word by word."""
    d, zero = model.spec.width, torch.zeros(model.spec.width, dtype=torch.float64)

    def sentence(table: Tensor, words: list[int]) -> Tensor:
        words = [w for w in words if w]
        total = zero
        for j, word in enumerate(words, start=1):
            weight = torch.ones(d, dtype=torch.float64)
            if model.spec.encoding == "position":
                for k in range(1, d + 1):
                    weight[k - 1] = 1 + 4 * (k - (d + 1) / 2) * (j - (len(words) + 1) / 2) / (d * len(words))
            total = total + weight * table[word - 1]
        return total

    told = [s for s in story.tolist() if any(s)][-model.spec.memories :]

    def memories(number: int) -> Tensor:
        ages = range(len(told) - 1, -1, -1)
        times = [zero if model.times is None else model.times[number, age] for age in ages]
        return torch.stack([sentence(model.words[number], s) + time for s, time in zip(told, times, strict=True)])

    adjacent = model.spec.tying == "adjacent"
    u = sentence(model.words[0] if model.asking is None else model.asking, question.tolist())
    for hop in range(model.spec.hops):
        keys, values = memories(hop if adjacent else 0), memories(hop + 1 if adjacent else 1)
        o = torch.softmax(keys @ u, 0) @ values
        u = (u if model.carry is None else model.carry.weight @ u) + o
    table = model.words[-1] if model.answering is None else model.answering
    return torch.cat([torch.zeros(1, dtype=torch.float64), table @ u])


@pytest.mark.parametrize("tying", ["adjacent", "layerwise"])
@pytest.mark.parametrize("encoding", ["position", "bag"])
@pytest.mark.parametrize("temporal", [True, False])
def test_the_paper_s_equations(tying: str, encoding: str, temporal: bool) -> None:
    """With room for all sentences, and with room for the last three only; an empty sentence is none."""
    story, question = a_story()
    story[0, 1] = 0
    for memories in (7, 3):
        model = a_model(tying=tying, encoding=encoding, temporal=temporal, memories=memories)
        for b in range(B):
            assert_same(model(story, question)[0][b], literally(model, story[b], question[b]))


def test_one_memory_is_read_as_it_is() -> None:
    """K = 1 and one sentence: o = c_1, whatever the weight of nothing else."""
    model = a_model(hops=1)
    story, question = a_story(1)
    assert model.times is not None
    value = model.embedded(model.words[1], story[:, 0]) + model.times[1, 0]
    asked = model.embedded(model.words[0], question)
    logits, weights = model(story, question)
    assert_same(logits[:, 1:], (asked + value) @ model.words[1].T)
    assert_same(weights[:, 0, 0], torch.ones(B, dtype=torch.float64))


def test_only_the_temporal_encoding_knows_the_order() -> None:
    story, question = a_story()
    order = torch.tensor([3, 0, 4, 1, 2])
    without, with_times = a_model(temporal=False), a_model()
    assert_same(without(story[:, order], question)[0], without(story, question)[0])
    moved = with_times(story[:, order], question)[0] - with_times(story, question)[0]
    assert float(moved.detach().abs().max()) > 1e-6


def test_times_are_counted_from_the_most_recent() -> None:
    """Padding sentences anywhere change nothing, and an older sentence moves no other one."""
    story, question = a_story()
    model = a_model()
    logits, weights = model(story, question)
    nothing = torch.zeros_like(story[:, :2])
    for padded in (torch.cat([nothing, story], 1), torch.cat([story, nothing], 1)):
        assert_same(model(padded, question)[0], logits)
    place, filled = model.places(torch.cat([torch.randint(1, WORDS, (B, 1, 4)), story], 1))
    assert torch.equal(place[:, 1:], model.places(story)[0]) and filled.sum() == 6 * B
    assert not weights[:, :, 5:].any()


def test_an_adjacent_matrix_learns_from_both_its_roles() -> None:
    """The gradient of the C of hop 1 that is the A of hop 2 is the sum of those of two separate copies."""
    model = a_model(hops=2, tying="adjacent", temporal=False, encoding="bag")
    story, question = a_story()
    model(story, question)[0].square().sum().backward()
    assert model.words.grad is not None
    first, last = model.words[0].detach(), model.words[2].detach()
    as_value, as_key = (model.words[1].detach().clone().requires_grad_() for _ in range(2))
    u = model.embedded(first, question)
    for keys, values in ((first, as_value), (as_key, last)):
        m, c = (model.embedded(table, story) for table in (keys, values))
        u = u + (torch.softmax((m @ u[:, :, None])[..., 0], -1)[:, None] @ c)[:, 0]
    (u @ last.T).square().sum().backward()
    assert as_value.grad is not None and as_key.grad is not None
    assert as_value.grad.any() and as_key.grad.any()
    assert_same(model.words.grad[1], as_value.grad + as_key.grad)


def test_a_linear_start_is_bilinear() -> None:
    """Without the softmax o doubles with u (and again with the memories)."""
    model = a_model(hops=1, tying="layerwise")
    model.linear = True
    story, question = a_story()
    assert model.carry is not None and model.asking is not None and model.answering is not None
    with torch.no_grad():
        model.carry.weight.zero_()  # u afterwards is o alone
        before = model(story, question)[0]
        model.asking.mul_(2)
        assert_same(model(story, question)[0], 2 * before)
        assert model.times is not None
        model.words.mul_(3)
        model.times.mul_(3)
        assert_same(model(story, question)[0], 18 * before)
        model.linear = False
        assert float((model(story, question)[0] - 18 * before).abs().max()) > 1e-3


def test_a_single_word_has_no_position() -> None:
    model = a_model()
    word = torch.tensor([[3, 0, 0]])
    assert_same(model.position_weights(word)[0, 0], torch.ones(WIDTH, dtype=torch.float64))
    assert_same(model.embedded(model.words[0], word)[0], model.words[0, 2])


def test_layerwise_hops_with_the_identity_repeat_one_hop() -> None:
    story, question = a_story()
    three, one = (a_model(hops=n, tying="layerwise", temporal=False) for n in (3, 1))
    for model in (three, one):
        assert model.carry is not None
        with torch.no_grad():
            model.words[1] = model.words[0]
            torch.nn.init.eye_(model.carry.weight)
    with torch.no_grad():
        one.words.copy_(three.words)
    assert three.asking is not None and three.answering is not None
    keys, u = three.embedded(three.words[0], story), three.embedded(three.asking, question)
    for _ in range(3):
        u = u + (torch.softmax((keys @ u[:, :, None])[..., 0], -1)[:, None] @ keys)[:, 0]
    assert_same(three(story, question)[0][:, 1:], u @ three.answering.T)


def test_the_read_and_the_model_are_the_same_hops() -> None:
    """The layerwise model with a diagonal H is `Hops` over its memories."""
    model = a_model(tying="layerwise")
    story, question = a_story()
    assert model.carry is not None and model.times is not None
    assert model.asking is not None and model.answering is not None
    diagonal = torch.randn(WIDTH, dtype=torch.float64)
    with torch.no_grad():
        model.carry.weight.copy_(torch.diag(diagonal))
    keys, values = (
        model.embedded(model.words[i], story) + model.times[i, :5].flip(0) for i in range(2)
    )  # in the order of time
    q = model.embedded(model.asking, question)[:, None].expand(-1, 5, -1)
    u = hops(3, diagonal.expand(B, 5, 1, WIDTH), q[:, :, None], keys[:, :, None], values[:, :, None])
    assert_same(model(story, question)[0][:, 1:], u[:, -1, 0] @ model.answering.T)


def test_empty_places_take_weight_only_without_the_mask() -> None:
    story, question = a_story()
    masked, open_ = a_model(), a_model(masked=False)
    open_.load_state_dict(masked.state_dict())
    assert not masked(story, question)[1][:, :, 5:].any()
    weights = open_(story, question)[1]
    assert bool((weights > 0).all())
    assert_same(weights.sum(-1), torch.ones(B, 3, dtype=torch.float64))
    assert open_.times is not None
    u = open_.embedded(open_.words[0], question)
    ratio = weights[:, 0, 5] / weights[:, 0, 6]  # of empty places: e^(u . T)
    assert_same(ratio, torch.exp(u @ (open_.times[0, 5] - open_.times[0, 6])))


def test_noise_puts_gaps_between_sentences_in_training_only() -> None:
    model = a_model(noise=0.5, memories=40)
    story = torch.randint(1, WORDS, (64, 12, 3))
    place, filled = model.places(story)
    gaps = place[:, :-1] - place[:, 1:] - 1
    assert bool((place[:, -1] == 0).all()) and set(gaps.unique().tolist()) == {0, 1}
    assert 0.4 < float(gaps.double().mean()) < 0.6 and bool((filled.sum(1) == 12).all())
    place, _ = model.eval().places(story)
    assert torch.equal(place[0], torch.arange(11, -1, -1))


def test_a_story_of_nothing_is_answered_by_the_question() -> None:
    model = a_model()
    question = torch.randint(1, WORDS, (B, 3))
    logits, weights = model(torch.zeros(B, 2, 4, dtype=torch.int64), question)
    assert not weights.any()
    assert_same(logits[:, 1:], model.embedded(model.words[0], question) @ model.words[-1].T)


def test_models_that_cannot_be() -> None:
    for given, message in (
        ({"vocabulary": 1}, "at least 2"),
        ({"hops": 0}, "at least 1"),
        ({"tying": "none"}, '"adjacent" or "layerwise"'),
        ({"encoding": "sine"}, '"position" or "bag"'),
        ({"noise": 1.0}, "probability"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            EndToEndMemorySpec(**{"vocabulary": 5, **given})  # pyright: ignore[reportArgumentType]
    model, (story, question) = a_model(), a_story()
    for bad, message in (
        ((story.float(), question), "int64"),
        ((story[0], question), "batch, sentences, words"),
        ((story, question + WORDS), "words in"),
        ((story, question[:1]), "rows"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            model(*bad)
