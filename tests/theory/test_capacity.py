"""How many associations memories hold, against what is known about three of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, RunError
from mnemos.inspect import Capacity, Curve
from mnemos.memory import HeavyHitters, Patterns

HEBBIAN = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0))
DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0))
SHARP = mn.KVMemory(read=mn.Softmax(scale=32.0))


def measured(memories: Any, **options: Any) -> Capacity:
    options = {"progress": False} | options
    return mn.capacity(memories, **options)


def line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of the least squares line."""
    points = torch.tensor([x, y], dtype=torch.float64)
    (mx, my), (vx, cov), (_, vy) = points.mean(1), *points.cov().tolist()
    return cov / vx, float(my - cov / vx * mx), cov**2 / (vx * vy)


def held(curves: tuple[Curve, ...]) -> list[float]:
    assert not any(curve.open for curve in curves)
    return [curve.capacity.mean for curve in curves]


def test_hebbian_capacity_grows_linearly_with_the_key_size() -> None:
    """The error of n pairs is (n - 1) / key_dim on average, so it passes e at 1 + e key_dim."""
    sizes = [16, 32, 64, 128, 256]
    found = measured({"": HEBBIAN}, key_dim=sizes, threshold=0.25, counts=[*range(1, 16), *range(16, 90, 3)])
    slope, intercept, fit = line([float(s) for s in sizes], held(found[""]))
    assert fit > 0.99 and abs(slope - 0.25) < 0.03 and abs(intercept - 1) < 1.5
    wide = found[""][-1]
    for count, mean in zip(wide.counts, wide.means, strict=True):
        assert abs(mean.mean - (count - 1) / 256) < 0.02


def overlap(scale: float, size: int) -> float:
    """The mean of exp(scale (cos - 1)) between two random directions of `size` channels: what one stored pattern adds
    to the softmax of another, which falls by a factor with every channel."""
    angle = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    density = angle.sin() ** (size - 2)
    return float((density * (scale * (angle.cos() - 1)).exp()).sum() / density.sum())


def test_sharp_attention_holds_exponentially_many_in_the_dimension() -> None:
    """Recall fails where all other patterns together weigh as much as the right one, n overlap = 1 or so."""
    sizes = [2, 3, 4, 5, 6]
    counts = sorted({round(2 ** (i / 2)) for i in range(23)})
    memory = mn.KVMemory(read=mn.Softmax(scale=16.0))
    found = held(measured({"": memory}, key_dim=sizes, value_dim=16, threshold=0.3, counts=counts, seeds=3)[""])
    slope, _, fit = line([float(s) for s in sizes], [math.log(x) for x in found])
    assert fit > 0.98 and slope > math.log(2)
    for size, number in zip(sizes, found, strict=True):
        assert 0.5 < number * overlap(16.0, size) < 2


def test_the_delta_rule_recalls_as_many_orthogonal_keys_as_there_are_channels() -> None:
    patterns = Patterns("orthogonal")
    for size in (5, 16):
        counts = (1, size - 1, size, size + 1)
        (curve,) = measured(
            DELTA, key_dim=size, patterns=patterns, counts=counts, threshold=1e-3, dtype=torch.float64
        ).curves
        for errors in curve.errors:
            assert max(errors[:3]) < 1e-20 and errors[3] > 1e-3
        assert size <= curve.capacity.low <= curve.capacity.high < size + 1


def test_the_delta_rule_holds_more_random_keys_than_hebb() -> None:
    found = measured({"hebb": HEBBIAN, "delta": DELTA}, key_dim=32, threshold=0.25)
    assert found["delta"][0].capacity.low > found["hebb"][0].capacity.high


def test_the_error_is_the_mean_over_all_that_was_written() -> None:
    (curve,) = measured(HEBBIAN, key_dim=6, value_dim=3, counts=(1, 4, 7), seeds=2, dtype=torch.float64).curves
    for seed, errors in enumerate(curve.errors):
        k, v = Patterns().draw(7, 6, 3, torch.Generator().manual_seed(seed))
        for n, error in zip(curve.counts, errors, strict=True):
            found = k[:n] @ k[:n].T @ v[:n]
            expected = ((found - v[:n]) ** 2).sum(1) / (v[:n] ** 2).sum(1)
            assert abs(error - float(expected.mean())) < 1e-12
    assert curve.state_bytes == 6 * 3 * 8


def test_missed_are_those_nearer_to_another_value() -> None:
    options = {"key_dim": 6, "value_dim": 3, "counts": (5, 40), "seeds": 2, "dtype": torch.float64}
    (curve,) = measured(HEBBIAN, measure="missed", **options).curves
    for seed, errors in enumerate(curve.errors):
        k, v = Patterns().draw(40, 6, 3, torch.Generator().manual_seed(seed))
        for n, error in zip(curve.counts, errors, strict=True):
            best = (k[:n] @ k[:n].T @ v[:n] @ v[:n].T).argmax(1)
            assert abs(error - float((best != torch.arange(n)).double().mean())) < 1e-12
    assert 0 < curve.errors[0][1] < 1


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(SHARP, key_dim=4, counts=(3, 20), seeds=2)
    import sys

    monkeypatch.setattr(sys.modules["mnemos.inspect.capacity"], "QUERIES", 200)
    parts = measured(SHARP, key_dim=4, counts=(3, 20), seeds=2)
    for one, other in zip(whole.curves[0].errors, parts.curves[0].errors, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-12)


def test_capacity_lies_where_the_line_between_two_counts_crosses_the_threshold() -> None:
    curve = Curve("", "", "unit", 1, 1, 0, (2, 4, 8), ((0.0, 0.1, 0.5), (0.2, 0.1, 0.3), (0.0, 0.1, 0.2)), 0.2)
    assert curve.by_seed == pytest.approx((5.0, 6.0, 8.0)) and curve.open
    first = Curve("", "", "unit", 1, 1, 0, (2, 4), ((0.4, 0.5), (math.nan, 0.0)), 0.2)
    assert first.by_seed == pytest.approx((1.0, 0.0)) and not first.open


@pytest.mark.parametrize(
    "memory",
    [
        mn.Memory(mn.MLP(depth=2), learner=mn.GD(momentum=True)),
        mn.Memory(mn.Matrix(), mn.Huber(None), mn.Decay(per="pair", rotate="key"), mn.GD(rate=0.5, steps=2)),
        mn.memory.LogLinear(levels=4),
        mn.memory.HigherOrder(decay=True),
        mn.KVMemory(retain=mn.Window(4, sinks=1)),
        mn.KVMemory(retain=HeavyHitters(6, recent=2), read=mn.memory.Relative(3)),
        mn.KVMemory(read=mn.memory.LocalLinear()),
    ],
    ids=lambda memory: str(memory)[:40],
)
def test_any_memory_can_be_asked(memory: mn.memory.AnyMemory) -> None:
    (curve,) = measured(memory, key_dim=4, counts=(1, 3, 9), seeds=2).curves
    assert all(math.isfinite(error) for errors in curve.errors for error in errors)


def test_several_pairs_a_token_are_several_associations() -> None:
    memory = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0, steps=2))
    (curve,) = measured(
        memory, key_dim=8, counts=(1, 4, 5), seeds=2, patterns=Patterns("orthogonal"), threshold=1e-6
    ).curves
    assert curve.counts == (2, 8, 10)
    assert all(errors[1] < 1e-9 and errors[2] > 1e-3 for errors in curve.errors)


def test_a_window_holds_what_fits_into_it() -> None:
    memory = mn.KVMemory(retain=mn.Window(8), read=mn.Softmax(scale=1e4))
    (curve,) = measured(memory, key_dim=8, counts=(4, 8, 16), measure="missed", threshold=0.01).curves
    for errors in curve.errors:
        assert errors[:2] == (0.0, 0.0) and 0.3 < errors[2] < 0.9


def test_controls_are_constants_that_may_be_given() -> None:
    forgetting = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD())
    options: dict[str, Any] = {"key_dim": 8, "counts": (6,), "seeds": 2, "patterns": Patterns("orthogonal")}
    (kept,) = measured(forgetting, **options).curves
    (lost,) = measured(forgetting, controls={"decay": 0.5}, **options).curves
    assert max(errors[0] for errors in kept.errors) < 1e-10
    expected = sum((1 - 0.5**age) ** 2 for age in range(6)) / 6
    for errors in lost.errors:
        assert errors[0] == pytest.approx(expected, rel=1e-4)


def test_noisy_cues() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, _ = Patterns("sign").draw(20, 40, 5, generator)
    assert torch.equal((Patterns("sign").cues(keys, 0.1, generator) != keys).sum(1), torch.full((20,), 4))
    for patterns in (Patterns("sparse", active=8), Patterns("message", active=8)):
        keys, _ = patterns.draw(20, 40, 40, generator)
        cues = patterns.cues(keys, 0.5, generator)
        assert torch.equal(keys.sum(1), torch.full((20,), 8.0).double())
        assert torch.equal(cues.sum(1), torch.full((20,), 4.0).double()) and bool((cues <= keys).all())
    message = keys.view(20, 8, 5)
    assert torch.equal(message.sum(-1), torch.ones(20, 8).double())
    keys, _ = Patterns().draw(500, 40, 5, generator)
    moved = (Patterns().cues(keys, 0.3, generator) - keys).square().sum(1).mean()
    assert abs(float(moved) - 0.09) < 0.005
    clean = measured(SHARP, key_dim=8, counts=(20,), seeds=2).curves[0].errors
    noisy = measured(SHARP, key_dim=8, counts=(20,), seeds=2, noise=0.7).curves[0].errors
    assert all(one < other for one, other in zip(clean, noisy, strict=True))


def test_the_result_is_a_value_that_prints_and_is_drawn(tmp_path: Path) -> None:
    found = measured({"hebb": HEBBIAN, "sharp": SHARP}, key_dim=(4, 8), seeds=2, threshold=0.2)
    assert Capacity.from_json(found.to_json()) == found
    text = str(found)
    assert "hebb" in text and "at least 32" in text and "2 seeds" in text
    pytest.importorskip("matplotlib")
    picture = found.draw(tmp_path / "new" / "capacity.svg").read_text()
    assert "associations held" in picture and "hebb" in picture and "sharp" in picture
    single = measured(HEBBIAN, key_dim=4, seeds=2).draw(tmp_path / "one.png")
    assert single.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(RunError, match=r"drawn as \.png or \.svg; got 'one\.gif'"):
        found.draw(tmp_path / "one.gif")


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a layer": ({"memories": mn.zoo.deltanet()}, InvalidType, r"takes a memory, several, or several by name"),
    "nothing": ({"memories": []}, InvalidValue, "at least one memory; got none"),
    "key_dim": ({"key_dim": 0}, InvalidValue, r"capacity\(key_dim=\) is a whole number of at least 1; got \(0,\)"),
    "half a channel": ({"key_dim": 3.5}, InvalidValue, r"capacity\(key_dim=\) is a whole number"),
    "one count": ({"counts": 5}, InvalidValue, "rising numbers of associations.*got 5"),
    "text": ({"threshold": "0.1"}, InvalidType, r"capacity\(threshold=\) is a number; got '0.1'"),
    "no key_dim": ({"key_dim": ()}, InvalidValue, r"capacity\(key_dim=\)"),
    "value_dim": ({"value_dim": -1}, InvalidValue, r"capacity\(value_dim=\)"),
    "counts": ({"counts": (4, 2)}, InvalidValue, "rising numbers of associations"),
    "no counts": ({"counts": ()}, InvalidValue, "rising numbers of associations"),
    "measure": ({"measure": "cosine"}, InvalidValue, 'is "squared" or "missed"; got \'cosine\''),
    "threshold": ({"threshold": 0.0}, InvalidValue, "an error above 0; got 0.0"),
    "noise": ({"noise": math.nan}, InvalidValue, "at least 0; got nan"),
    "seeds": ({"seeds": 1}, InvalidValue, "at least 2, so that there is an interval; got 1"),
    "controls": ({"controls": {"decay": 1.0}}, InvalidValue, "names decay, which none of the memories takes"),
    "out of range": (
        {"memories": mn.Memory(retention=mn.Decay()), "controls": {"decay": 1.5}},
        InvalidValue,
        r"constant 1\.5 for the control 'decay' must lie in \[0, 1\]",
    ),
    "patterns": ({"patterns": "sign"}, InvalidType, r"takes Patterns, for example Patterns\(\"sign\"\)"),
    "same": ({"patterns": Patterns(same=True), "value_dim": 3}, InvalidValue, "need value_dim = key_dim; got 3 and 32"),
    "sparse": ({"patterns": Patterns("sparse", active=40)}, InvalidValue, "32 coordinates cannot have 40 ones"),
    "clusters": (
        {"patterns": Patterns("message", active=5)},
        InvalidValue,
        "32 coordinates cannot be shared between 5",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_measured(case: str) -> None:
    options, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        measured(**({"memories": HEBBIAN} | options))


def test_patterns_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match="is one of unit, orthogonal, sign, sparse, message; got 'binary'"):
        Patterns("binary")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValue, match="is a number of clusters; it was left out"):
        Patterns("message")
    with pytest.raises(InvalidType, match=r"is a whole number; got 2\.5"):
        Patterns("sparse", active=2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValue, match='belongs to "sparse" and "message"; got 3 with \'unit\''):
        Patterns("unit", active=3)
