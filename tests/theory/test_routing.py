"""What routing attention by clusters, and the centroids behind it, must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.layers import CentroidAffinity, Centroids, MemoryLayer, Standard, followed
from mnemos.memory import ClusteredWindow

B, T, H, K = 2, 41, 2, 4


def inputs(clusters: int, time: int = T) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(3))
    return q, k, v, torch.randn(B, time, H, clusters, dtype=torch.float64)


def run(memory: ClusteredWindow, q: Tensor, k: Tensor, v: Tensor, affinity: Tensor) -> Tensor:
    return mn.run(memory, q, k, v, {"affinity": affinity})[0]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def literal(q: Tensor, k: Tensor, v: Tensor, affinity: Tensor, size: int) -> Tensor:
    """Dense attention under a mask of each row and head."""
    cluster = affinity.argmax(-1).transpose(1, 2)  # (B, H, T)
    same = (cluster[..., None] == cluster[..., None, :]) & torch.ones(q.shape[1], q.shape[1]).tril().bool()
    later = same.flip(-1).cumsum(-1).flip(-1)  # of the same kind, from there to the query
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(K)
    weights = scores.masked_fill(~(same & (later <= size)), -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshv->bthv", weights, v)


@pytest.mark.parametrize(("clusters", "size"), [(3, 4), (5, 1), (2, 17), (4, 100), (7, 3)])
def test_each_cluster_is_a_window_of_its_own(clusters: int, size: int) -> None:
    q, k, v, affinity = inputs(clusters, 150)
    assert_same(run(ClusteredWindow(clusters, size), q, k, v, affinity), literal(q, k, v, affinity, size))


def test_one_cluster_is_a_window_and_a_long_one_full_attention() -> None:
    q, k, v, affinity = inputs(1)
    for size in (1, 5, T, T + 3):
        window = mn.KVMemory(retain=mn.Window(size), read=mn.Softmax(rotary=100.0))
        found = run(ClusteredWindow(1, size, rotary=100.0), q, k, v, affinity)
        assert_same(found, mn.run(window, q, k, v)[0])
    r = Standard()(q)
    assert_same(run(ClusteredWindow(1, T), r, r, v, affinity), mn.run(mn.KVMemory(), r, r, v)[0])


def test_what_is_kept() -> None:
    """The last `size` of each cluster, never more, and how many there were."""
    q, k, v, affinity = inputs(3)
    _, state = mn.run(ClusteredWindow(3, 4), q, k, v, {"affinity": affinity})
    cluster = affinity.argmax(-1)
    slots = state.child("entries")["slot"].unflatten(-1, (3, 4))
    for b in range(B):
        for h in range(H):
            for c in range(3):
                members = (cluster[b, :, h] == c).nonzero().flatten().tolist()
                assert sorted(s - 1 for s in slots[b, h, c].tolist() if s) == members[-4:]
                assert int(state["assigned"][b, h, c]) == len(members)


def test_the_order_of_clusters_does_not_matter() -> None:
    q, k, v, affinity = inputs(4)
    memory = ClusteredWindow(4, 3)
    assert_same(run(memory, q, k, v, affinity[..., [2, 0, 3, 1]]), run(memory, q, k, v, affinity))


def test_a_token_far_back_is_found_by_its_kind() -> None:
    """Where a window of as many entries has lost it."""
    q, k, v, affinity = inputs(4, 128)
    affinity[..., 3] = -9.0
    affinity[:, 5, :, 3] = affinity[:, 127, :, 3] = 9.0
    q.requires_grad_(), v.requires_grad_()
    out = run(ClusteredWindow(4, 2), q, k, v, affinity)
    (gradient,) = torch.autograd.grad(out[:, 127].square().sum(), v)
    assert {t for t in range(128) if gradient[:, t].any()} == {5, 127}


def test_nothing_is_told_of_the_future() -> None:
    """Changing the last token changes nothing before it, neither values nor who belongs to whom."""
    model = mn.LanguageModel(mn.zoo.routing_transformer(4, clusters=3).replace(width=8, depth=2, heads=2, vocabulary=7))
    tokens = torch.randint(0, 7, (1, 40))
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 7
    assert torch.equal(model(changed)[0][:, :-1], model(tokens)[0][:, :-1])


def test_the_choice_has_no_gradient() -> None:
    q, k, v, affinity = inputs(3)
    affinity.requires_grad_()
    assert not run(ClusteredWindow(3, 4), q, k, v, affinity).requires_grad


# The layer and its centroids.


def routing() -> MemoryLayer:
    layer = mn.zoo.routing_transformer(4, clusters=3).pattern[1].build(8, H).double()
    assert isinstance(layer, MemoryLayer)
    return layer


def centroids_of(layer: torch.nn.Module) -> CentroidAffinity:
    (module,) = (m for m in layer.modules() if isinstance(m, CentroidAffinity))
    return module


def queries_of(layer: MemoryLayer, x: Tensor) -> Tensor:
    """r = layer norm without gain, written out."""
    r = (x @ layer.project.weight[:8].T).unflatten(-1, (H, -1))
    away = r - r.mean(-1, keepdim=True)
    return away / (away.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def test_a_routing_layer() -> None:
    layer, x = routing(), torch.randn(B, T, 8, dtype=torch.float64)
    r, v = queries_of(layer, x), (x @ layer.project.weight[8:].T).unflatten(-1, (H, -1))
    assert_same(r.square().sum(-1), torch.full((B, T, H), 4.0).double(), 0.05)
    affinity = torch.einsum("bthk,hck->bthc", r, centroids_of(layer).centroids)
    out, _ = mn.run(layer.spec.memory, r, r, v, {"affinity": affinity})
    assert_same(layer(x)[0], out.flatten(2) @ layer.out.weight.T)


def test_centroids_stand_still_unless_they_are_let_go() -> None:
    layer, x = routing(), torch.randn(B, T, 8, dtype=torch.float64)
    start = centroids_of(layer).centroids.clone()
    before, _ = layer(x)
    before.sum().backward()
    assert torch.equal(centroids_of(layer).centroids, start)
    with pytest.raises(ZeroDivisionError), followed(layer):
        layer(x)
        raise ZeroDivisionError
    assert torch.equal(centroids_of(layer).centroids, start)
    with followed(layer):
        y, _ = layer(x)
    assert torch.equal(y, before), "they move after the pass"
    assert not torch.equal(centroids_of(layer).centroids, start)
    assert not list(centroids_of(layer).parameters())


def test_one_pass_without_memory_is_a_step_of_lloyd() -> None:
    """With decay 0, up to the smoothing: the mean of the queries that were nearest."""
    rule = Centroids(decay=0.0)
    module = rule.build(H * K, H, 3).double()
    assert isinstance(module, CentroidAffinity)
    q = torch.randn(B, T, H, K, dtype=torch.float64)
    nearest = module(q).argmax(-1)
    with followed(module):
        module(q[:, :20]), module(q[:, 20:])  # two passes count together
    for h in range(H):
        for c in range(3):
            assert_same(module.centroids[h, c], q[:, :, h][nearest[:, :, h] == c].mean(0), 1e-5)


def test_centroids_follow_by_a_moving_average() -> None:
    rule = Centroids(decay=0.9)
    module = rule.build(H * K, H, 3).double()
    assert isinstance(module, CentroidAffinity)
    number, total = torch.ones(H, 3, dtype=torch.float64), module.centroids.clone()
    for _ in range(3):
        q = torch.randn(B, 9, H, K, dtype=torch.float64)
        one_hot = torch.nn.functional.one_hot(
            torch.einsum("bthk,hck->bthc", q, module.centroids).argmax(-1), 3
        ).double()
        number = 0.9 * number + 0.1 * one_hot.sum((0, 1))
        total = 0.9 * total + 0.1 * torch.einsum("bthc,bthk->hck", one_hot, q)
        whole = number.sum(-1, keepdim=True)
        smooth = (number + 1e-5) / (whole + 3e-5) * whole
        with followed(module):
            module(q)
        assert_same(module.centroids, total / smooth[..., None])


def test_silent_tokens_do_not_count() -> None:
    module = Centroids(decay=0.5).build(H * K, H, 3).double()
    assert isinstance(module, CentroidAffinity)
    q = torch.randn(B, T, H, K, dtype=torch.float64)
    with followed(module):
        module(torch.cat([q, torch.zeros_like(q)], 1))
    both = module.number.sum(-1)
    assert_same(both, torch.full((H,), 0.5 * 3 + 0.5 * B * T, dtype=torch.float64))


def test_the_commitment_draws_queries_to_their_centroids_only() -> None:
    layer, x = routing(), torch.randn(B, T, 8, dtype=torch.float64)
    module, r = centroids_of(layer), queries_of(layer, x)
    start, affinity = module.centroids.clone(), torch.einsum("bthk,hck->bthc", r, module.centroids)
    with followed(layer) as commitment:
        layer(x)
    loss = commitment()
    assert isinstance(loss, Tensor)
    own = start[torch.arange(H), affinity.argmax(-1)]
    assert_same(loss, 1e-4 * (r - own).square().sum(-1).mean())
    found = torch.autograd.grad(loss, layer.project.weight)[0]
    wanted = torch.autograd.grad(1e-4 * (r - own.detach()).square().sum(-1).mean(), layer.project.weight)[0]
    assert_same(found, wanted)
    with followed(mn.LanguageModel(mn.ModelSpec(pattern=(mn.zoo.gla(),), width=16, depth=1, heads=2))) as nothing:
        pass
    assert nothing() == 0.0


def test_training_moves_the_centroids() -> None:
    """Queries in three bundles: after some passes each has a centroid of its own."""
    torch.manual_seed(3)
    module = Centroids(decay=0.5).build(32, 1, 3)
    assert isinstance(module, CentroidAffinity)
    bundles = torch.nn.functional.layer_norm(torch.randn(3, 32), (32,))
    module.centroids.copy_(bundles[None] + torch.randn(1, 3, 32))
    for _ in range(20):
        with followed(module):
            module((bundles[torch.randint(0, 3, (1, 60))] + 0.1 * torch.randn(1, 60, 32))[:, :, None])
    away = torch.cdist(module.centroids[0], bundles).diagonal()
    assert float(away.max()) < 0.3


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ClusteredWindow, {"clusters": 0}, "ClusteredWindow(clusters=) is at least 1; got 0."),
        (ClusteredWindow, {"size": 0}, "ClusteredWindow(size=) counts the current token, so at least 1; got 0."),
        (ClusteredWindow, {"scale": -1.0}, "ClusteredWindow(scale=) must be positive; got -1.0."),
        (ClusteredWindow, {"rotary": 0.5}, "ClusteredWindow(rotary=) is a base above 1; got 0.5."),
        (Centroids, {"decay": 1.0}, "Centroids(decay=) lies in [0, 1); got 1.0."),
        (Centroids, {"commitment": -1.0}, "Centroids(commitment=) is a factor of at least 0; got -1.0."),
        (
            mn.LayerSpec,
            {"memory": mn.KVMemory(), "shared_keys": True, "kv_heads": 1},
            "LayerSpec(shared_keys=) makes a key of each query: it goes with no kv_heads=, and one pair a token.",
        ),
    ],
)
def test_options_that_cannot_be(kind: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        kind(**options)
    assert str(caught.value) == message


def test_other_mistakes() -> None:
    with pytest.raises(InvalidValue, match="a clustered window starts empty and takes no weights"):
        ClusteredWindow().init(1, 1, 4, 4, {"matrix": torch.zeros(1, 4, 4)})
    with pytest.raises(InvalidValue, match="key_dim must be even; got 3"):
        ClusteredWindow(rotary=10.0).init(1, 1, 3, 3)
    with pytest.raises(InvalidValue, match="Centroids gives a number for each cluster"):
        Centroids().build(8, 2, None)
    q, k, v, affinity = inputs(3, 4)
    with pytest.raises(InvalidValue, match=r"control 'affinity' must have shape .* got \(2, 4, 2, 3\)"):
        run(ClusteredWindow(5, 2), q, k, v, affinity)
