"""ClAM (arXiv 2306.03209): the energy, the dynamics, completing and clustering."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue
from mnemos.models import ClAM


def clam(clusters: int = 5, features: int = 4, **options: float) -> ClAM:
    module = ClAM(clusters, features, **options).double()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        module.memories.normal_()
    return module.requires_grad_(False)


def blobs(count: int, clusters: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(clusters, features, generator=generator)
    label = torch.arange(count) % clusters
    return centres[label] + torch.randn(count, features, generator=generator), label


def silhouette(x: Tensor, label: Tensor) -> float:
    """Mean of (b - a) / max(a, b): a to one's own cluster, b to the nearest other."""
    far, found = torch.cdist(x, x), []
    for i in range(len(x)):
        own = label == label[i]
        own[i] = False
        a = far[i][own].mean() if own.any() else far.new_zeros(())
        b = min(float(far[i][label == other].mean()) for other in label.unique() if other != label[i])
        found.append((b - float(a)) / max(float(a), b) if own.any() else 0.0)
    return sum(found) / len(found)


def lloyd(x: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    centres = x[torch.randperm(len(x), generator=generator)[:clusters]]
    for _ in range(50):
        label = torch.cdist(x, centres).argmin(1)
        centres = torch.stack([x[label == c].mean(0) if (label == c).any() else centres[c] for c in range(clusters)])
    return torch.cdist(x, centres).argmin(1)


def same_partition(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one[:, None] == one, other[:, None] == other)


def test_a_step_by_the_formula() -> None:
    module = clam(rate=0.3, steps=1, scale=1.7)
    x = torch.randn(4, dtype=torch.float64)
    weights = [math.exp(-1.7 / 2 * float((m - x).square().sum())) for m in module.memories]
    step = sum(w * (m - x) for w, m in zip(weights, module.memories, strict=True)) / sum(weights)
    assert float((module(x) - (x + 0.3 * step)).detach().abs().max()) < 1e-12
    assert float(module.energy(x)) == pytest.approx(-math.log(sum(weights)) / 1.7)


@pytest.mark.parametrize("rate", [0.1, 1.0, 1.9])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_no_step_raises_the_energy(rate: float, scale: float) -> None:
    module = clam(rate=rate, scale=scale, steps=1)
    v = 3 * torch.randn(50, 4, dtype=torch.float64)
    start = module.energy(v)
    for _ in range(20):
        later = module(v)
        assert bool((module.energy(later) <= module.energy(v) + 1e-12).all())
        v = later
    assert float((start - module.energy(v)).mean()) > 0.1


def test_the_step_is_gradient_descent_on_the_energy() -> None:
    module = clam(rate=0.1, steps=1)
    v = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module.energy(v).sum(), v)
    assert float((module(v) - (v - 0.1 * slope)).detach().abs().max()) < 1e-12


def test_a_full_step_is_a_step_of_mean_shift() -> None:
    """To the mean of the memories, each weighted by how likely it is to have made the point."""
    module, x = clam(rate=1.0, steps=1, scale=1.3), torch.randn(7, 4, dtype=torch.float64)
    for row, found in zip(x, module(x), strict=True):
        weights = [math.exp(-1.3 / 2 * float((m - row).square().sum())) for m in module.memories]
        mean = sum(w * m for w, m in zip(weights, module.memories, strict=True)) / sum(weights)
        assert float((found - mean).abs().max()) < 1e-12


def test_the_energy_curves_at_most_as_a_parabola() -> None:
    """Its Hessian is I - scale Cov, of the memories under the weights of the point: so that steps below 2 descend."""
    module = clam(scale=1.3)
    for v in torch.randn(5, 4, dtype=torch.float64):
        weights = torch.softmax(-1.3 / 2 * (module.memories - v).square().sum(-1), 0)
        off = module.memories - weights @ module.memories
        curve = torch.autograd.functional.hessian(lambda at: module.energy(at[None])[0], v)
        expected = torch.eye(4, dtype=torch.float64) - 1.3 * off.T @ (weights[:, None] * off)
        assert float((curve - expected).abs().max()) < 1e-10
        assert float(torch.linalg.eigvalsh(curve).max()) <= 1 + 1e-12


def test_a_full_sharp_step_goes_to_the_nearest_memory() -> None:
    module = clam(rate=1.0, steps=1, scale=1e6)
    x = torch.randn(30, 4, dtype=torch.float64)
    assert float((module(x) - module.memories[torch.cdist(x, module.memories).argmin(1)]).detach().abs().max()) < 1e-9


def test_a_single_memory_draws_geometrically() -> None:
    module = clam(1, rate=0.3, steps=7)
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = module.memories + 0.7**7 * (x - module.memories)
    assert float((module(x) - expected).detach().abs().max()) < 1e-12


def test_what_is_seen_does_not_move() -> None:
    module = clam()
    x, hidden = torch.randn(20, 4, dtype=torch.float64), torch.rand(20, 4) < 0.5
    after = module(x, hidden)
    assert torch.equal(after[~hidden], x[~hidden]) and not bool((after[hidden] == x[hidden]).any())
    full = module(x.masked_fill(hidden, 0.0), hidden)
    assert float(module.loss(x, hidden)) == pytest.approx(float((full - x).square().sum() / hidden.sum()))


def test_memories_in_another_order_are_other_labels() -> None:
    module, x = clam(), torch.randn(40, 4, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    before = module.predict(x)
    with torch.no_grad():
        module.memories.copy_(module.memories[order].clone())
    assert torch.equal(order[module.predict(x)], before) and len(before.unique()) > 2


def test_memories_far_away_do_not_learn() -> None:
    module, x = clam(scale=20.0), torch.randn(40, 4, dtype=torch.float64)
    with torch.no_grad():
        module.memories[0] += 100
    module.requires_grad_().loss(x, torch.rand(40, 4) < 0.5).backward()
    assert module.memories.grad is not None
    assert not module.memories.grad[0].any() and bool(module.memories.grad[1:].any())


def test_blobs_are_found() -> None:
    x, label = blobs(120, 4, 5)
    module = ClAM(4, 5).fit(x, epochs=12, batch=60, progress=False)
    found = module.predict(x)
    assert same_partition(found, label)
    generator = torch.Generator().manual_seed(0)
    by_lloyd = [silhouette(x, lloyd(x, 4, generator)) for _ in range(6)]
    assert silhouette(x, found) >= max(by_lloyd) - 1e-6 and silhouette(x, found) > min(by_lloyd) + 0.05
    again = ClAM(4, 5).fit(x, epochs=12, batch=60, progress=False)
    assert torch.equal(again.memories, module.memories)


def test_units_and_constant_features_do_not_matter() -> None:
    x, label = blobs(120, 3, 4)
    x = torch.cat([x * torch.tensor([1.0, 1000.0, 0.001, 1.0]) + 50, torch.full((120, 1), 7.0)], 1)
    assert same_partition(ClAM(3, 5).fit(x, epochs=10, batch=60, progress=False).predict(x), label)


def test_what_cannot_be() -> None:
    x = torch.randn(3, 4)
    for make, kind, message in (
        (lambda: ClAM(0, 4), InvalidValue, r"ClAM\(clusters=\) is at least 1; got 0"),
        (lambda: ClAM(2, 2.5), InvalidType, r"ClAM\(features=\) is a whole number; got 2.5"),  # pyright: ignore
        (lambda: ClAM(2, 4, scale=0.0), InvalidValue, r"ClAM\(scale=\) is positive; got 0.0"),
        (lambda: ClAM(2, 4, rate=2.0), InvalidValue, "lies between 0 and 2, or the energy may rise; got 2.0"),
        (lambda: ClAM(2, 5).predict(x), InvalidValue, r"points must be \(points, 5\); got shape \(3, 4\)"),
        (lambda: ClAM(2, 4).predict(x.long()), InvalidType, "floating point tensor; got torch.int64"),
        (lambda: ClAM(2, 4).predict(x / 0), InvalidValue, "points holds NaN or infinity"),
        (lambda: ClAM(4, 4).fit(x), InvalidValue, "4 clusters need as many points; got 3"),
        (lambda: ClAM(2, 4).fit(x, epochs=0), InvalidValue, r"fit\(epochs=\) is at least 1; got 0"),
        (lambda: ClAM(2, 4).fit(x, hide=1.0), InvalidValue, r"fit\(hide=\) is a share between 0 and 1; got 1.0"),
    ):
        with pytest.raises(kind, match=message):
            make()
