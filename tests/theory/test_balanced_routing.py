"""What routing attention as published must satisfy: clusters that choose among all tokens, and what that tells."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import CentroidAffinity, Centroids, followed
from mnemos.memory import ClusteredWindow
from mnemos.models import BalancedRouting, BalancedRoutingSpec

B, T, H, K = 2, 23, 2, 4
WIDTH = H * K


def made(clusters: int = 3, window: int = 6, **options: Any) -> BalancedRouting:
    return BalancedRoutingSpec(WIDTH, H, clusters, window, **options).build().double()


def tokens(time: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, time, WIDTH, dtype=torch.float64)


def projected(network: BalancedRouting, x: Tensor) -> tuple[Tensor, Tensor]:
    """r and v, (B, T, H, K), written out."""
    r, v = ((x @ w.T).unflatten(-1, (H, K)) for w in network.project.weight.split(WIDTH))
    away = r - r.mean(-1, keepdim=True)
    return away / (away.square().mean(-1, keepdim=True) + 1e-5).sqrt(), v


def centroids_of(network: BalancedRouting) -> CentroidAffinity:
    assert isinstance(network.affinity, CentroidAffinity)
    return network.affinity


def heads(network: BalancedRouting, x: Tensor) -> Tensor:
    """y before W_o, (B, T, H, K)."""
    return (network(x) @ torch.linalg.inv(network.out.weight).T).unflatten(-1, (H, K))


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def literal(network: BalancedRouting, x: Tensor) -> Tensor:
    """A loop over rows, heads, clusters and tokens."""
    r, v = projected(network, x)
    total, number = [[] for _ in range(x.shape[0])], torch.zeros(x.shape[0], x.shape[1], H).double()
    scale = network.spec.scale or 1 / math.sqrt(K)
    for b in range(x.shape[0]):
        for h in range(H):
            answers = [torch.zeros(K, dtype=x.dtype) for _ in range(x.shape[1])]
            for c in range(network.spec.clusters):
                near = (r[b, :, h] @ centroids_of(network).centroids[h, c]).tolist()
                best = sorted(sorted(range(len(near)), key=lambda t: -near[t])[: network.spec.window])
                for i, t in enumerate(best):
                    seen = best[: i + 1]
                    weights = torch.softmax(scale * r[b, seen, h] @ r[b, t, h], 0)
                    answers[t] = answers[t] + weights @ v[b, seen, h]
                    number[b, t, h] += 1
            total[b].append(torch.stack(answers))
    summed = torch.stack([torch.stack(rows, 1) for rows in total])
    return (summed / (number[..., None] + 0.01)).flatten(2) @ network.out.weight.T


@pytest.mark.parametrize("rotary", [None, 100.0])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_one_cluster_of_all_is_full_attention_over_1_01(scale: float | None, rotary: float | None) -> None:
    """So is one that asks for more tokens than there are; with several such clusters the answers are the same ones."""
    x = tokens()
    for clusters, window, share in ((1, T, 1.01), (1, T + 9, 1.01), (4, T, 4.01 / 4)):
        network = made(clusters, window, scale=scale, rotary=rotary)
        r, v = projected(network, x)
        full, _ = mn.run(mn.KVMemory(read=mn.Softmax(scale=scale, rotary=rotary)), r, r, v)
        assert_same(network(x), (full / share).flatten(2) @ network.out.weight.T)


@pytest.mark.parametrize(("clusters", "window", "scale"), [(3, 6, None), (5, 1, None), (2, 17, 0.3), (7, 4, 2.0)])
def test_it_is_what_a_loop_over_clusters_gives(clusters: int, window: int, scale: float | None) -> None:
    network, x = made(clusters, window, scale=scale), tokens().requires_grad_()
    found, expected = network(x), literal(network, x)
    assert_same(found, expected)
    push = torch.randn_like(found)
    wanted = [x, *network.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, wanted, push), torch.autograd.grad(expected, wanted, push), strict=True
    ):
        assert_same(one, other)


def test_every_cluster_takes_its_best_tokens_and_as_many() -> None:
    network, x = made(4, 6), tokens()
    members = network.members(x)
    assert members.shape == (B, H, 4, 6)
    assert bool((members[..., 1:] > members[..., :-1]).all()), "in their order, none twice"
    r, _ = projected(network, x)
    near = torch.einsum("bthk,hck->bhct", r, centroids_of(network).centroids)
    taken = torch.zeros_like(near, dtype=torch.bool).scatter(-1, members, True)
    least, best_left = near.masked_fill(~taken, torch.inf).amin(-1), near.masked_fill(taken, -torch.inf).amax(-1)
    assert bool((least > best_left).all())


def test_a_token_that_no_cluster_took_answers_zero() -> None:
    network, x = made(3, 4), tokens()
    held = torch.zeros(B, H, T, dtype=torch.bool).scatter(-1, network.members(x).flatten(2), True).transpose(1, 2)
    network.out.weight.data.copy_(torch.eye(WIDTH))
    o = network(x).unflatten(-1, (H, K))
    assert not held.all() and held.any()
    assert not o[~held].any() and bool(o[held].any(-1).all())


def test_the_order_of_centroids_does_not_matter() -> None:
    network, x = made(4, 5), tokens()
    before, members = network(x), network.members(x)
    order = [2, 0, 3, 1]
    centroids_of(network).centroids.copy_(centroids_of(network).centroids[:, order].clone())
    assert_same(network(x), before)
    assert torch.equal(network.members(x), members[:, :, order])


def test_of_equal_tokens_the_earliest_are_taken() -> None:
    """Although what was computed for them may differ by rounding."""
    network = made(3, 5)
    assert bool((network.members(tokens(1).expand(B, 40, WIDTH)) == torch.arange(5)).all())
    affinity = K * (0.25 + 1e-8 * torch.randn(1, 40, H, 3).double())
    affinity[:, 17] += 1e-4
    assert bool((network._chosen(affinity, None) == torch.tensor([0, 1, 2, 3, 17])).all())


def test_rotary_positions_are_those_of_the_sequence() -> None:
    """A cluster's tokens stay as far apart as they were; the choice does not see them."""
    plain, x = made(3, 6), tokens()
    turned = BalancedRoutingSpec(WIDTH, H, 3, 6, rotary=50.0).build().double()
    turned.load_state_dict(plain.state_dict())
    assert torch.equal(turned.members(x), plain.members(x)) and not torch.equal(turned(x), plain(x))
    r, v = projected(turned, x)
    read = mn.Softmax(rotary=50.0)
    expected, number = torch.zeros(B, T, H, K).double(), torch.zeros(B, T, H, 1).double()
    for b in range(B):
        for h in range(H):
            for taken in turned.members(x)[b, h].tolist():
                for i, t in enumerate(taken):
                    mask = torch.full((T,), -9e9).double().index_fill(0, torch.tensor(taken[: i + 1]), 0.0)
                    answer = attended(r[b, :, h], v[b, :, h], t, mask, read)
                    expected[b, t, h] += answer
                    number[b, t, h] += 1
    assert_same(turned(x), (expected / (number + 0.01)).flatten(2) @ turned.out.weight.T)


def attended(r: Tensor, v: Tensor, t: int, mask: Tensor, read: mn.Softmax) -> Tensor:
    """Softmax attention of token t to all tokens of one head under a mask, with the angles of rotary positions."""
    assert read.rotary is not None
    frequencies = read.rotary ** (-torch.arange(K // 2).double() / (K // 2))
    angles = torch.arange(len(r)).double()[:, None] * frequencies
    z = torch.complex(r[:, : K // 2], r[:, K // 2 :]) * torch.polar(torch.ones_like(angles), angles)
    scores = (z * z[t].conj()).real.sum(-1) / math.sqrt(K)
    return torch.softmax(scores + mask, 0) @ v


# The leak.


def test_the_choice_tells_the_past_of_the_future() -> None:
    """Another last token changes earlier answers here, and none in the causal memory of the same clusters."""
    network, x = made(3, 6), tokens(batch=1)
    r, _ = projected(network, x)
    nearest = int((r[0, :-1, 0] @ centroids_of(network).centroids[0, 0]).argmax())
    x[:, -1] = -x[:, nearest]
    last = x.clone()
    last[:, -1] = 1.5 * x[:, nearest]  # it takes the place of another
    before, after = network(x), network(last)
    assert T - 1 not in network.members(x)[0, 0, 0] and T - 1 in network.members(last)[0, 0, 0]
    assert not torch.allclose(after[:, :-1], before[:, :-1], atol=1e-6)

    memory = ClusteredWindow(3, 6)
    outputs = []
    for given in (x, last):
        r, v = projected(network, given)
        affinity = torch.einsum("bthk,hck->bthc", r, centroids_of(network).centroids)
        outputs.append(mn.run(memory, r, r, v, {"affinity": affinity})[0])
    assert torch.equal(outputs[0][:, :-1], outputs[1][:, :-1])
    assert not torch.equal(outputs[0][:, -1], outputs[1][:, -1])


def test_clusters_of_all_tokens_tell_nothing() -> None:
    network, x = made(3, T), tokens()
    changed = x.clone()
    changed[:, -1] = torch.randn(B, WIDTH).double()
    assert_same(network(changed)[:, :-1], network(x)[:, :-1])
    assert_same(network(x[:, :9]), network(x)[:, :9])
    assert not torch.allclose(network(changed)[:, -1], network(x)[:, -1], atol=1e-3)


def test_no_answer_reads_what_comes_later() -> None:
    """The choice aside, attention in a cluster is causal: no gradient comes back from the past."""
    network, x = made(3, 6), tokens().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 11].square().sum(), x)
    assert not gradient[:, 12:].any() and gradient[:, :12].any()


# The centroids.


def test_no_gradient_reaches_the_centroids() -> None:
    network, x = made(), tokens()
    centroids = centroids_of(network).centroids.requires_grad_()
    with followed(network) as commitment:
        y = network(x)
        loss = commitment()
    assert isinstance(loss, Tensor)
    assert torch.autograd.grad(y.sum(), centroids, allow_unused=True, retain_graph=True) == (None,)
    assert not {name for name, _ in network.named_parameters()} & {"affinity.centroids"}


def test_the_commitment_draws_queries_to_their_centroids_only() -> None:
    network, x = made(centroids=Centroids(commitment=0.3)), tokens()
    r, _ = projected(network, x)
    start = centroids_of(network).centroids.clone()
    nearest = torch.einsum("bthk,hck->bthc", r, start).argmax(-1)
    with followed(network) as commitment:
        network(x)
    loss = commitment()
    assert isinstance(loss, Tensor)
    own = start[torch.arange(H), nearest]
    expected = 0.3 * (r - own).square().sum(-1).mean()
    assert_same(loss, expected)
    (found,) = torch.autograd.grad(loss, network.project.weight)
    (wanted,) = torch.autograd.grad(expected, network.project.weight)
    assert_same(found, wanted)
    assert found[:WIDTH].any() and not found[WIDTH:].any(), "queries, and no values"


def test_centroids_without_memory_take_a_step_of_lloyd() -> None:
    """With decay 0 they become the mean of what was nearest, whoever took it; up to the smoothing, which the sums and
    numbers behind them do not have."""
    network, x = made(3, 4, centroids=Centroids(decay=0.0)), tokens()
    module, (r, _) = centroids_of(network), projected(network, x)
    start, before = module.centroids.clone(), network(x)
    assert torch.equal(module.centroids, start), "they stand still"
    nearest = torch.einsum("bthk,hck->bthc", r, start).argmax(-1)
    with followed(network):
        assert torch.equal(network(x), before)
        network.members(x)  # looks, and is not counted
    assert not torch.equal(network(x), before)
    for h in range(H):
        for c in range(3):
            own = r[:, :, h][nearest[:, :, h] == c]
            assert len(own) == int(module.number[h, c]) > 0
            assert_same(module.total[h, c] / module.number[h, c], own.mean(0))
            assert_same(module.centroids[h, c], own.mean(0), 1e-4)


# Rows, sizes and mistakes.


def test_rows_that_are_shorter() -> None:
    """What lies beyond a row's length does not matter, not even NaN, and does not move the centroids."""
    network = made(3, 6)
    x, lengths = tokens(batch=4), torch.tensor([T, 9, 3, 0])
    for row, length in enumerate(lengths.tolist()):
        x[row, length:] = torch.nan
    y = network(x, lengths)
    members = network.members(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        if length:
            assert_same(y[row : row + 1, :length], network(x[row : row + 1, :length]))
        assert not y[row, length:].any()
        alone = network.members(x[row : row + 1, :length])[0]
        assert torch.equal(members[row, :, :, : alone.shape[-1]], alone)
        assert bool((members[row, :, :, alone.shape[-1] :] >= length).all())
    with followed(network):
        network(x, lengths)
    assert_same(centroids_of(network).number.sum(-1), 0.999 * 3 + 0.001 * lengths.sum().expand(H).double())


def test_nothing_gives_nothing() -> None:
    network = made()
    for batch, time in ((0, 5), (2, 0), (0, 0)):
        x = tokens(time, batch)
        assert network(x).shape == x.shape
        assert network.members(x).shape == (batch, H, 3, min(6, time))


def test_half_precision() -> None:
    network, x = made(2, T).float(), tokens().float()
    expected = network(x)
    y = network.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert_same(y.float(), expected, 0.03)


def test_autocast_does_not_blur_the_choice() -> None:
    network, x = made(9, 100).float(), tokens(1000).float()
    with torch.autocast("cpu", torch.bfloat16):
        r, _ = network._projected(x)
        members, y = network.members(x), network(x)
    near = torch.einsum("bthk,hck->bhct", r.double(), centroids_of(network).centroids.double())
    taken = torch.zeros_like(near, dtype=torch.bool).scatter(-1, members, True)
    least, best_left = near.masked_fill(~taken, torch.inf).amin(-1), near.masked_fill(taken, -torch.inf).amax(-1)
    assert bool((least > best_left - 1e-5).all())
    assert not y[~taken.any(2).any(1)].any() and y.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 7}, "width must be a multiple of heads; got width=7, heads=2."),
        ({"clusters": 0}, "BalancedRoutingSpec(clusters=) is at least 1; got 0."),
        ({"window": 0}, "BalancedRoutingSpec(window=) is at least 1; got 0."),
        ({"scale": 0.0}, "BalancedRoutingSpec(scale=) must be positive; got 0.0."),
        ({"rotary": 1.0}, "BalancedRoutingSpec(rotary=) is a base above 1; got 1.0."),
        ({"width": 6, "rotary": 9.0}, "rotary positions turn pairs of channels, so key_dim must be even; got 3."),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        BalancedRoutingSpec(**{"width": WIDTH, "heads": H} | options)
    assert str(caught.value) == message


def test_other_mistakes() -> None:
    network, x = made(), tokens()
    for method in (network, network.members):
        with pytest.raises(InvalidType, match=r"x must be a floating point tensor; got torch\.int64"):
            method(x.long())
        with pytest.raises(InvalidValue, match=r"x must be \(batch, time, 8\); got shape \(2, 23, 7\)"):
            method(x[..., :7])
        with pytest.raises(InvalidValue, match="x holds NaN or infinity, first at index"):
            method(x / 0)
        with pytest.raises(InvalidType, match=r"lengths must be an int64 tensor; got torch\.float32"):
            method(x, torch.ones(B))
        with pytest.raises(InvalidValue, match=r"lengths must have shape \(2,\); got \(3,\)"):
            method(x, torch.ones(3, dtype=torch.int64))
        with pytest.raises(InvalidValue, match=r"lengths must lie in \[0, 23\]; got \[3, 24\]"):
            method(x, torch.tensor([3, 24]))
