"""What MEMO must satisfy (arXiv 2001.10913)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.models import Looks, Memo, MemoSpec, bhattacharyya, memo_loss

B, FACTS, ITEMS, ASKED, INPUTS, ANSWERS = 3, 6, 2, 3, 5, 4


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def a_model(**options: Any) -> Memo:
    given = {"width": 8, "embedding": 4, "heads": 2, "hops": 3, "halting": 5, **options}
    model = MemoSpec(INPUTS, ITEMS, ASKED, ANSWERS, **given).build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def facts_and_question() -> tuple[Tensor, Tensor]:
    return randn(B, FACTS, ITEMS, INPUTS), randn(B, ASKED, INPUTS)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def norm(x: Tensor, by: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-5) * by.weight + by.bias


def test_hops_are_written_out() -> None:
    """Three hops of one row, head by head and fact by fact: hops that are forced are the unrolled network."""
    model, (facts, question) = a_model(), facts_and_question()
    looks = model(facts, question)
    size = 4
    for b in range(B):
        told = [torch.cat([model.item.weight @ item for item in fact]) for fact in facts[b]]
        u = model.query.weight @ torch.cat([model.item.weight @ item for item in question[b]])
        z, last = torch.zeros(1, 5, dtype=torch.float64), None
        for hop in range(3):
            read, all_weights = [], []
            for head in range(2):
                own = slice(head * size, (head + 1) * size)
                scores = torch.stack([(model.key.weight @ c)[own] @ u[own] / math.sqrt(size) for c in told])
                w = scores.exp() / scores.exp().sum()
                read.append(sum((w[i] * (model.value.weight @ c)[own] for i, c in enumerate(told)), torch.zeros(size)))
                all_weights.append(w)
            u = norm(u + model.out.weight @ torch.cat(read) + model.out.bias, model.norm)
            weights = torch.stack(all_weights)
            hidden = (model.hidden.weight @ u + model.hidden.bias).relu()
            assert_same(looks.logits[b, hop], model.answer.weight @ hidden + model.answer.bias, 1e-10)
            assert_same(looks.weights[b, hop], weights, 1e-10)
            moved = torch.zeros(2) if last is None else -torch.log((weights * last).sqrt().sum(-1))
            given = torch.cat([moved.double(), torch.eye(3, dtype=torch.float64)[hop]])
            z, last = model.policy(given[None], z), weights
            out = model.policy_out(model.policy_hidden(z).relu())[0]
            assert_same(looks.halting[b, hop], torch.sigmoid(out[0]), 1e-10)
            assert_same(looks.value[b, hop], out[1], 1e-10)


def test_fewer_hops_are_the_first_of_more() -> None:
    more, fewer, (facts, question) = a_model(hops=5), a_model(hops=2), facts_and_question()
    fewer.load_state_dict(
        {name: x for name, x in more.state_dict().items() if name != "policy.weight_ih"}
        | {"policy.weight_ih": more.policy.weight_ih[:, :4]}
    )
    for one, other in zip(fewer(facts, question), more(facts, question), strict=True):
        assert_same(one, other[:, :2], 1e-10)


def test_one_hop_of_one_head_is_one_attention_read() -> None:
    model, (facts, question) = a_model(heads=1, hops=1), facts_and_question()
    told = model.item(facts).flatten(-2)
    memory = mn.KVMemory()
    state = memory.init(B, 1, 8, 8, dtype=torch.float64)
    for i in range(FACTS):
        state = memory.write(state, model.key(told[:, i])[:, None], model.value(told[:, i])[:, None])
    u = model.query(model.item(question).flatten(-2))
    read = memory.read(state, u[:, None])[:, 0]
    expected = model.answer(model.hidden(model.norm(u + model.out(read))).relu())
    looks = model(facts, question)
    assert_same(looks.logits[:, 0], expected)
    assert_same(looks.answers(), expected)  # the last hop answers in any case


def test_items_stay_apart() -> None:
    """Swapping the items of a fact changes its key; their sum would not know."""
    model, (facts, question) = a_model(), facts_and_question()
    swapped = facts.clone()
    swapped[:, 2] = facts[:, 2].flip(1)
    assert float((model(swapped, question).weights - model(facts, question).weights).detach().abs().max()) > 1e-4
    size = model.item.out_features
    with torch.no_grad():  # the same map for both items is a sum
        for linear in (model.key, model.value):
            linear.weight[:, size:] = linear.weight[:, :size]
    assert_same(model(swapped, question).logits, model(facts, question).logits)


def test_the_order_of_facts_does_not_matter() -> None:
    model, (facts, question), order = a_model(), facts_and_question(), torch.randperm(FACTS)
    looks, moved = model(facts, question), model(facts[:, order], question)
    assert_same(moved.logits, looks.logits)
    assert_same(moved.halting, looks.halting)
    assert_same(moved.weights, looks.weights[..., order])


def test_facts_that_are_not_there() -> None:
    model, (facts, question) = a_model(), facts_and_question()
    real = torch.arange(FACTS).expand(B, -1) < 4
    one, other = model(facts, question, real), model(facts[:, :4], question)
    assert_same(one.logits, other.logits)
    assert_same(one.halting, other.halting)
    assert not one.weights[..., 4:].any()


def test_the_distance_of_weights() -> None:
    p, q = (torch.softmax(randn(B, FACTS), -1) for _ in range(2))
    assert_same(bhattacharyya(p, p), torch.zeros(B, dtype=torch.float64), 1e-12)
    assert_same(bhattacharyya(p, q), bhattacharyya(q, p))
    assert bool((bhattacharyya(p, q) > 1e-3).all())
    assert_same(bhattacharyya(p, q), -torch.log((p.sqrt() * q.sqrt()).sum(-1)))
    apart = bhattacharyya(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert math.isclose(float(apart), math.log(1e6), rel_tol=1e-5)


def test_attention_at_rest_tells_the_policy_the_time_only() -> None:
    """A query that stays as it is looks at the same facts: the distance is 0 and halting is that of any such story."""
    model, (facts, question) = a_model(hops=4), facts_and_question()
    with torch.no_grad():
        model.query.weight.zero_()
        for parameter in (*model.out.parameters(), model.norm.bias):
            parameter.zero_()
    looks = model(facts, question)
    assert_same(looks.weights, looks.weights[:, :1].expand_as(looks.weights))
    assert_same(looks.halting, looks.halting[:1].expand_as(looks.halting))
    assert float(looks.halting.detach().diff(dim=1).abs().max()) > 1e-6  # as time goes on


def test_a_query_at_rest_has_moved_by_nothing() -> None:
    """Every hop puts u back where the question had put it. Each row looks at facts of its own, not evenly, and the
    policy hears of distances of 0: it answers what it answers to zeros and the time."""
    model, (facts, question), rest = a_model(hops=4), facts_and_question(), randn(8)
    question = question[:1].expand(B, -1, -1)
    with torch.no_grad():
        told = model.item(question[0]).flatten()
        model.query.weight.copy_(rest[:, None] * told / told.square().sum())
        model.norm.weight.zero_()
        model.norm.bias.copy_(rest)
    looks = model(facts, question)
    assert_same(looks.weights, looks.weights[:, :1].expand_as(looks.weights))
    assert float(looks.weights.detach().std(0).max()) > 0.01 and float(looks.weights.detach().std(-1).min()) > 0.01
    z = torch.zeros(1, 5, dtype=torch.float64)
    for hop in range(4):
        z = model.policy(torch.cat([torch.zeros(1, 2), torch.eye(4)[hop : hop + 1]], 1).double(), z)
        stop = torch.sigmoid(model.policy_out(model.policy_hidden(z).relu())[:, 0])
        assert_same(looks.halting[:, hop], stop.expand(B))


def test_halting_teaches_the_attention_nothing() -> None:
    model, (facts, question) = a_model(), facts_and_question()
    model(facts, question).halting.sum().backward()
    assert all(p.grad is None for m in (model.key, model.query, model.item) for p in m.parameters())
    assert model.policy.weight_ih.grad is not None and model.policy.weight_ih.grad.any()


def test_where_it_stops() -> None:
    halting = torch.tensor([[0.1, 0.6, 0.9], [0.7, 0.1, 0.1], [0.1, 0.2, 0.3]])
    looks = Looks(torch.arange(9.0).view(3, 3, 1), halting, torch.zeros(3, 3), torch.zeros(3, 3, 1, 1))
    assert looks.stops().tolist() == [1, 0, 2]
    assert looks.answers().flatten().tolist() == [1.0, 3.0, 8.0]


def some_looks() -> tuple[Looks, Tensor]:
    """Of one row, right at the second hop only."""
    logits = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    halting = torch.tensor([[0.3, 0.6, 0.5]], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([[0.2, 0.7, 0.4]], dtype=torch.float64, requires_grad=True)
    return Looks(logits, halting, value, torch.zeros(1, 3, 1, 1)), torch.tensor([1])


def test_the_policy_gradient_is_that_of_the_expected_reward() -> None:
    """Weighted by their probabilities, the gradients of all ways to stop add up to it, whatever the baseline."""
    looks, targets = some_looks()
    h = looks.halting[0]
    chances = [h[0], (1 - h[0]) * h[1], (1 - h[0]) * (1 - h[1])]
    (exact,) = torch.autograd.grad(chances[1], looks.halting)  # the reward is 1 at the second hop
    total = torch.zeros_like(exact)
    for stop, chance in enumerate(chances):
        loss, _ = memo_loss(looks, targets, value=0.0, hops=0.0, stops=torch.tensor([stop]))
        gradient, by_value = torch.autograd.grad(loss, (looks.halting, looks.value), allow_unused=True)
        assert not by_value.any()  # the baseline does not learn from it
        total += float(chance.detach()) * gradient
    assert_same(total, -exact)


def test_the_other_terms() -> None:
    looks, targets = some_looks()
    loss, stops = memo_loss(looks, targets, policy=0.0, value=2.0, hops=0.5, stops=torch.tensor([1]))
    answer = math.log(1 + math.exp(-1))
    expected = answer + 2.0 * ((1 - 0.2) ** 2 + (1 - 0.7) ** 2) - 0.5 * (0.3 + 0.6 + 0.5)
    assert math.isclose(float(loss.detach()), expected, rel_tol=1e-12) and stops.tolist() == [1]
    (gradient,) = torch.autograd.grad(loss, looks.value)
    assert_same(gradient, torch.tensor([[2 * 2 * -0.8, 2 * 2 * -0.3, 0.0]], dtype=torch.float64))


def test_stops_are_drawn_from_the_probabilities() -> None:
    number = 4000
    halting = torch.tensor([0.3, 0.6, 0.5]).expand(number, -1)
    looks = Looks(torch.zeros(number, 3, 2), halting, torch.zeros(number, 3), torch.zeros(number, 3, 1, 1))
    _, stops = memo_loss(looks, torch.zeros(number, dtype=torch.int64))
    share = torch.bincount(stops, minlength=3) / number
    assert_same(share, torch.tensor([0.3, 0.7 * 0.6, 0.7 * 0.4]), 0.03)


def test_what_cannot_be() -> None:
    for given, message in (
        ({"hops": 0}, "at least 1"),
        ({"heads": 3}, "multiple of heads"),
        ({"dropout": 1.0}, "probability"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            a_model(**given)
    model, (facts, question) = a_model(), facts_and_question()
    for bad, message in (
        ((facts.long(), question), "floating point"),
        ((facts[:, :, :1], question), "facts must be"),
        ((facts, question[:1]), "question must"),
        ((facts, question, torch.ones(B, FACTS)), "real must"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            model(*bad)
