"""Vector symbols and the resonator networks that factor them (arXiv 2007.03748, 2403.13218)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue
from mnemos.memory.symbolic import Resonator, bind, bundle, codebook, likeness, unbind

SIGNS, PHASES = torch.float64, torch.complex128
each_dtype = pytest.mark.parametrize("dtype", [SIGNS, PHASES], ids=["signs", "phases"])
each_update = pytest.mark.parametrize("update", ["outer", "least_squares", "softmax"])


def books(factors: int, entries: int, size: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [codebook(entries, size, dtype=dtype, generator=generator) for _ in range(factors)]


def scenes(found: list[Tensor], count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randint(0, len(x), (count,), generator=generator) for x in found], 1)
    return bind(*(x[i] for x, i in zip(found, indices.unbind(1), strict=True))), indices


def solved(resonator: Resonator, found: list[Tensor], count: int = 20) -> tuple[float, float]:
    """The share of scenes whose factors are right, and the rounds that those took."""
    scene, indices = scenes(found, count)
    factors = resonator.factor(scene, found)
    right = (factors.indices == indices).all(1)
    return float(right.double().mean()), float(factors.steps[right].double().mean())


@each_dtype
def test_binding_is_undone_exactly(dtype: torch.dtype) -> None:
    a, b, c = codebook(3, 200, dtype=dtype)
    assert float((unbind(bind(a, b, c), b, c) - a).abs().max()) < 1e-14
    assert float((unbind(a, a) - 1).abs().max()) < 1e-14
    assert float((a.abs() - 1).abs().max()) < 1e-14
    assert abs(float(likeness(bind(a, b), a[None])[0])) < 0.3
    if dtype == SIGNS:
        assert torch.equal(unbind(bind(a, b), b), a)


@each_dtype
def test_a_bundle_is_like_each_of_its_members(dtype: torch.dtype) -> None:
    symbols = codebook(40, 2000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    near = likeness(bundle(symbols[:5]), symbols)
    assert float(near[:5].min()) > 0.3 > 0.12 > float(near[5:].abs().max())
    assert torch.equal(bundle(torch.stack([symbols[0], -symbols[0]])), torch.ones(2000, dtype=dtype))


@each_dtype
@each_update
def test_a_single_factor_is_found_in_one_round(update: Any, dtype: torch.dtype) -> None:
    found = books(1, 30, 400, dtype)
    scene, indices = scenes(found, 10)
    factors = Resonator(update, steps=1).factor(scene, found)
    assert torch.equal(factors.indices, indices)


@each_dtype
def test_the_true_factors_are_a_fixed_point(dtype: torch.dtype) -> None:
    """Of a hard softmax exactly, of least squares too, of a finite scale and of outer products nearly."""
    found = books(3, 12, 500, dtype)
    scene, indices = scenes(found, 8)
    true = [x[i] for x, i in zip(found, indices.unbind(1), strict=True)]
    for f in range(3):
        y = unbind(scene, *(x for g, x in enumerate(true) if g != f))
        for resonator, exact in (
            (Resonator("softmax", scale=1e6), True),
            (Resonator("least_squares"), True),
            (Resonator("softmax", scale=10.0), False),
            (Resonator("outer"), False),
        ):
            after = resonator.clean(y, found[f])
            off = float((after - true[f]).abs().max())
            assert off < 1e-9 if exact else float(likeness(after, true[f]).diagonal().min()) > 0.8
    y = unbind(scene, true[0], true[1])
    off = float((Resonator("outer").clean(y, found[2]) - true[2]).abs().max())
    assert off > 1e-3 or dtype == SIGNS  # crosstalk


@each_dtype
def test_a_hard_softmax_cleans_up_to_the_nearest_entry_and_a_soft_one_to_the_mean(dtype: torch.dtype) -> None:
    (symbols,) = books(1, 9, 101, dtype)
    y = torch.randn(6, 101, dtype=dtype)
    nearest = symbols[likeness(y, symbols).argmax(-1)]
    assert float((Resonator(scale=1e7).clean(y, symbols) - nearest).abs().max()) < 1e-9
    assert float((Resonator(scale=1e-9).clean(y, symbols) - bundle(symbols)).abs().max()) < 1e-6


def test_rounds_by_the_formulas() -> None:
    """Two factors of phases, two rounds, both orders, written out."""
    (x, z) = books(2, 4, 30, PHASES)
    scene, _ = scenes([x, z], 1)
    for synchronous in (False, True):
        a, b = x.sum(0) / x.sum(0).abs(), z.sum(0) / z.sum(0).abs()
        for _ in range(2):
            before = a
            for_a = scene[0] / b
            a = x.T @ torch.softmax(7.0 * (x.conj() @ for_a).real / 30, 0).to(PHASES)
            a = a / a.abs()
            for_b = scene[0] / (before if synchronous else a)
            b = z.T @ torch.softmax(7.0 * (z.conj() @ for_b).real / 30, 0).to(PHASES)
            b = b / b.abs()
        factors = Resonator(scale=7.0, steps=2, patience=9, synchronous=synchronous).factor(scene, [x, z])
        assert float((factors.estimates[0] - torch.stack([a, b])).abs().max()) < 1e-12
    y = scene[0] / b
    outer = x.T @ (x.conj() @ y)
    squares = x.T @ torch.linalg.lstsq(x.T, y).solution
    for resonator, expected in ((Resonator("outer"), outer), (Resonator("least_squares"), squares)):
        assert float((resonator.clean(y[None], x)[0] - expected / expected.abs()).abs().max()) < 1e-9


@each_update
def test_small_problems_are_solved(update: Any) -> None:
    for dtype in (SIGNS, PHASES):
        assert solved(Resonator(update), books(3, 5, 512, dtype))[0] >= 0.95


def test_the_softmax_solves_more_in_fewer_rounds() -> None:
    """512 phases, 3 factors (27 000 products): a simulation had 0.47 by outer products, 0.67 by the softmax
    at scale 10 and 0.13 at 250."""
    found = books(3, 30, 512, PHASES)
    (classic, classic_rounds), (soft, rounds) = (solved(Resonator(u), found, 40) for u in ("outer", "softmax"))
    frozen, _ = solved(Resonator(scale=250.0), found, 40)
    assert soft > classic + 0.05 and soft > frozen + 0.2
    assert rounds < classic_rounds


def test_each_row_stops_by_itself() -> None:
    found = books(3, 12, 256, PHASES)
    scene, _ = scenes(found, 12)
    for resonator in (Resonator(steps=60, patience=3), Resonator(steps=60, patience=1)):
        together = resonator.factor(scene, found)
        assert len(set(together.steps.tolist())) > 1 and bool(together.settled.any())
        for row in range(12):
            alone = resonator.factor(scene[row : row + 1], found)
            assert torch.equal(alone.indices[0], together.indices[row]) and alone.steps[0] == together.steps[row]
            assert float((alone.estimates[0] - together.estimates[row]).abs().max()) < 1e-9
    short = Resonator(steps=2, patience=3).factor(scene, found)
    assert not short.settled.any()


def test_what_cannot_be() -> None:
    x = codebook(4, 8)
    for make, kind, message in (
        (lambda: codebook(0, 8), InvalidValue, "at least 1; got 0 and 8"),
        (lambda: codebook(3, 8, dtype=torch.int64), InvalidType, "signs.*phases"),
        (lambda: bind(), InvalidValue, "at least one symbol"),
        (lambda: bind(x, x[:, :4]), InvalidValue, "the same size; got 8 and 4"),
        (lambda: bind(x, x.double()), InvalidType, "share a dtype; got torch.float32 and torch.float64"),
        (lambda: Resonator("hard"), InvalidValue, "got 'hard'"),  # pyright: ignore
        (lambda: Resonator(scale=0.0), InvalidValue, r"Resonator\(scale=\) is positive; got 0.0"),
        (lambda: Resonator(steps=0), InvalidValue, r"Resonator\(steps=\) is at least 1"),
        (lambda: Resonator(patience=0), InvalidValue, r"Resonator\(patience=\) is at least 1"),
        (lambda: Resonator().factor(x, []), InvalidValue, "at least one codebook"),
        (lambda: Resonator().factor(x[0], [x]), InvalidValue, r"scenes \(batch, size\); got shape \(8,\)"),
        (lambda: Resonator().factor(x, [x[:, :3]]), InvalidValue, r"with size 8; got shape \(4, 3\)"),
        (lambda: Resonator().factor(x, [x.double()]), InvalidType, "share a dtype"),
        (
            lambda: Resonator("least_squares").factor(x, [codebook(9, 8)]),
            InvalidValue,
            "at most size = 8 entries; got 9",
        ),
    ):
        with pytest.raises(kind, match=message):
            make()
