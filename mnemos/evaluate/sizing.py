"""Systems of equal size: the same number of parameters, and the same bytes of state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

import mnemos as mn
from mnemos.declaration import Declaration
from mnemos.errors import InvalidValue
from mnemos.layers import LayerSpec
from mnemos.memory import Matrix, Memory, Policy, Window


def parameters(spec: mn.ModelSpec) -> int:
    """Parameters of a declared model, counted without making them."""
    with torch.device("meta"):
        return mn.LanguageModel(spec).parameters_count()


def state_bytes(spec: mn.ModelSpec, length: int = 0) -> int:
    """Bytes of one row's state after `length` tokens."""
    model = mn.LanguageModel(spec)
    return model.state_bytes(length if length and _grows(model) else 0)


def grows(spec: mn.ModelSpec) -> bool:
    """Whether it keeps more the longer it reads."""
    return _grows(mn.LanguageModel(spec))


def _grows(model: mn.LanguageModel) -> bool:
    return model.state_bytes(3) > model.state_bytes(2)


def with_parameters(spec: mn.ModelSpec, count: int, tolerance: float = 0.02) -> mn.ModelSpec:
    """The same model with so many parameters, or as near as its feed-forward layers come: they make up the difference,
    in steps of 8 hidden channels.

    Raises InvalidValue where it has more than that, by `tolerance`, even with the narrowest of them.
    """
    smallest, next_one = (spec.replace(ffn=hidden / spec.width) for hidden in (8, 16))
    least, step = parameters(smallest), parameters(next_one) - parameters(smallest)
    if least > count * (1 + tolerance):
        raise InvalidValue(
            f"a model that keeps {spec.kept} has {least:,} parameters with the narrowest feed-forward layers, more "
            f"than the {count:,} asked for. Choose another width or depth, a larger system as the measure, less state, "
            "or no equal parameters."
        )
    return spec.replace(ffn=(8 + 8 * max(0, round((count - least) / step))) / spec.width)


def with_state(spec: mn.ModelSpec, wanted: int, tolerance: float = 0.1) -> mn.ModelSpec:
    """The same model with so many bytes of state: the channels of its keys, its windows and its budgets are scaled, all
    by one factor; where that is not enough, it gets fewer or more heads.

    Raises InvalidValue where it keeps every token, or nothing comes within `tolerance`.
    """
    if grows(spec):
        raise InvalidValue(
            f"a model that keeps {spec.kept} grows with the text, so its state cannot be made {wanted:,} bytes. Give "
            "one with a window or a budget in its place, or compare without equal state."
        )

    def miss(found: mn.ModelSpec) -> float:
        try:
            return abs(math.log(state_bytes(found) / wanted))
        except InvalidValue:  # not every number of channels will do
            return math.inf

    given = spec.number_of_heads
    heads = sorted(_divisors(spec.width), key=lambda h: (abs(math.log(h / given)), h))
    nearest = spec
    for number in heads:
        other = spec if number == given else spec.replace(heads=number)
        if miss(other) == math.inf:
            continue
        ratio = wanted / state_bytes(other)
        middle, reach = ratio**0.5, abs(math.log2(ratio)) / 2 + 1  # from half of the smaller to twice the larger
        for step in (reach / 8, reach / 64):
            factors = [middle * 2 ** (step * i) for i in range(-8, 9)]
            tried = {scaled: factor for factor in factors if (scaled := _scaled(other, factor)) is not None}
            best = min(tried, key=miss, default=other)
            middle = tried.get(best, middle)
            nearest = min(nearest, best, key=miss)
        if miss(nearest) <= math.log1p(tolerance):
            return nearest
    raise InvalidValue(
        f"a model that keeps {spec.kept} cannot be given a state of {wanted:,} bytes, to {tolerance:.0%}, by other key "
        f"channels, windows, budgets or heads; the nearest has {state_bytes(nearest):,}. Ask for another size, or "
        "compare without equal state."
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _is_knob(owner: Declaration, name: str) -> bool:
    """Whether the field sets how much is kept: channels of a matrix memory's keys or of a state space, hidden channels
    of a memory that is a network, entries of a window or of a policy."""
    if isinstance(owner, LayerSpec):
        return name == "key_expand" and isinstance(owner.memory, Memory) and isinstance(owner.memory.structure, Matrix)
    if isinstance(owner, Policy):
        return name in ("budget", "recent", "period")
    return name in ("state_dim", "expansion") or (isinstance(owner, Window) and name == "size")


def _scaled(spec: mn.ModelSpec, factor: float) -> mn.ModelSpec | None:
    """All knobs scaled to the nearest they can be, or None where that is nothing."""
    heads, width = spec.number_of_heads, spec.width

    def scale(name: str, value: Any) -> Any:
        if name == "key_expand":
            return max(1, round(value * factor * width / heads)) * heads / width
        return max(min(value, 1), round(value * factor))  # 0 stays 0

    try:
        return _walk(spec, scale)
    except InvalidValue:
        return None


def _walk(value: Any, change: Callable[[str, Any], Any]) -> Any:
    """The declaration with every knob in it changed."""
    if isinstance(value, tuple):
        return tuple(_walk(item, change) for item in value)
    if not isinstance(value, Declaration):
        return value
    assert dataclasses.is_dataclass(value)
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    names = {f.name: f.metadata.get("argument", f.name) for f in dataclasses.fields(value)}
    changed = {n: change(n, v) if _is_knob(value, n) else _walk(v, change) for n, v in given.items()}
    different = {names[n]: v for n, v in changed.items() if v != given[n]}
    return value.replace(**different) if different else value
