from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from mnemos.errors import InvalidValue, RunError
from mnemos.train import Optimiser, TrainConfig


def test_a_configuration_survives_its_json(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(minutes=1.5, steps=None, initial_state="carried", optimiser=Optimiser(betas=(0.5, 0.6)))
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.differences(TrainConfig.from_json(config.to_json())) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"widht": 3},
            "runs/x/config.json is not a configuration of this version of mnemos: widht: Unexpected keyword",
        ),
        ({"optimiser": {"lr": 3}}, "optimiser.lr: Unexpected keyword"),
        ({"steps": "many"}, "steps: Input should be a valid integer"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"system": None}, "system: Input should be a valid string"),
    ],
)
def test_unfit_json_is_refused(tiny: Callable[..., TrainConfig], change: dict[str, Any], message: str) -> None:
    text = json.dumps({**json.loads(tiny().to_json()), **change})
    with pytest.raises(RunError, match=re.escape(message)):
        TrainConfig.from_json(text, "runs/x/config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "a run ends after a number of steps or of minutes; got neither. Give exactly one."),
        ({"minutes": 2.0}, "got both. Give exactly one."),
        ({"steps": None, "minutes": 0.0}, "minutes must be a positive number; got 0.0."),
        ({"width": 0}, "width must be at least 1; got 0."),
        ({"batch": -1}, "batch must be at least 1; got -1."),
        ({"keep": 0}, "keep must be at least 1; got 0."),
        ({"seed": -1}, "seed must lie in [0, 2**63); got -1."),
    ],
)
def test_unfit_values_are_refused(tiny: Callable[..., TrainConfig], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        tiny(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate must be a positive number; got 0.0."),
        ({"rate": float("nan")}, "rate must be a positive number; got nan."),
        ({"clip": float("inf")}, "clip must be a positive number; got inf."),
        ({"warmup": -1}, "warmup must be at least 0; got -1."),
        ({"floor": 1.5}, "floor is a share of the highest rate, in [0, 1]; got 1.5."),
        ({"betas": (0.9, 1.0)}, "both betas must lie in [0, 1); got (0.9, 1.0)."),
    ],
)
def test_unfit_optimisers_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(message)):
        Optimiser(**change)


def test_differences_name_the_fields_and_not_the_folder(tiny: Callable[..., TrainConfig]) -> None:
    other = tiny(out="elsewhere", width=32, optimiser=Optimiser(warmup=4, rate=0.5))
    assert tiny().differences(other) == ["width: 16, 32", "rate: 0.001, 0.5"]


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    optimiser = Optimiser(rate=2.0, warmup=4, floor=0.25)
    rates = [optimiser.rate_at(step, 0.0) for step in range(6)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert optimiser.rate_at(99, 0.5) == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert optimiser.rate_at(99, 1.0) == pytest.approx(0.5)
    assert Optimiser(rate=2.0, warmup=0).rate_at(0, 0.0) == 2.0
