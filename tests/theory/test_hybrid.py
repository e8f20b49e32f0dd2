"""Layouts of models that mix linear and full attention in a ratio."""

from __future__ import annotations

import math

import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.models import hybrid

FULL = mn.LayerSpec(mn.KVMemory())
LINEAR = mn.zoo.linear_attention()


def places(ratio: float, depth: int) -> list[int]:
    spec = hybrid(LINEAR, FULL, ratio, depth)
    assert spec.depth == depth and set(spec.layers) <= {LINEAR, FULL}
    return [i for i, layer in enumerate(spec.layers) if layer == FULL]


@pytest.mark.parametrize("depth", [1, 4, 7, 24])
def test_places_of_full_layers(depth: int) -> None:
    for ratio in (1, 2, 3, 6, 12, 24):
        assert places(ratio, depth) == ([i for i in range(depth) if (i + 1) % (ratio + 1) == 0] or [depth - 1])
    assert places(0, depth) == list(range(depth))
    assert places(math.inf, depth) == []


@pytest.mark.parametrize("name", ["gla", "hgrn2", "gated_deltanet", "mamba2", "ttt_linear"])
def test_places_do_not_depend_on_what_is_placed(name: str) -> None:
    linear = getattr(mn.zoo, name)()
    for ratio in (1, 3, 6, 24):
        for full in (FULL, mn.zoo.sliding_window(8), mn.zoo.lla()):
            found = hybrid(linear, full, ratio, 24)
            assert [i for i, layer in enumerate(found.layers) if layer == full] == places(ratio, 24)
            assert hybrid(linear, full, ratio, 24) == found


def test_the_study_on_24_blocks() -> None:
    """24:1 on 24 blocks still has one full layer, the last."""
    assert [len(places(ratio, 24)) for ratio in (math.inf, 24, 12, 6, 3, 0)] == [0, 1, 1, 3, 6, 24]
    assert places(24, 24) == [23] and places(3, 24) == [3, 7, 11, 15, 19, 23]


def test_the_cache_grows_with_the_number_of_full_layers() -> None:
    bytes_at = {}
    for ratio in (math.inf, 3, 1, 0):
        model = mn.LanguageModel(hybrid(LINEAR, FULL, ratio, 4, width=16, heads=2, vocabulary=5))
        bytes_at[ratio] = model.state_bytes(20) - model.state_bytes(0)
    assert bytes_at[math.inf] == 0 < bytes_at[3]
    assert [bytes_at[r] // bytes_at[3] for r in (3, 1, 0)] == [1, 2, 4]


def test_a_hybrid_of_one_kind_is_the_plain_model() -> None:
    plain = mn.ModelSpec(pattern=(FULL,), width=16, depth=3, heads=2, vocabulary=5)
    mixed = hybrid(FULL, mn.KVMemory(), 2, 3, width=16, heads=2, vocabulary=5)
    assert mixed.layers == plain.layers
    one, other = mn.LanguageModel(plain), mn.LanguageModel(mixed)
    other.load_state_dict(one.state_dict())
    tokens = torch.randint(0, 5, (2, 9))
    assert torch.equal(one(tokens)[0], other(tokens)[0])


def test_layers_of_a_hybrid_know_their_place() -> None:
    """HGRN2's lower bound rises with the block's number in the whole model."""
    spec = hybrid(mn.zoo.hgrn2(), FULL, 1, 4)
    assert [getattr(getattr(layer, "decay", None), "bound", None) for layer in spec.layers] == [0, None, 0.5, None]


@pytest.mark.parametrize("ratio", [-1, 0.5, math.nan])
def test_ratios_that_are_none(ratio: float) -> None:
    with pytest.raises(InvalidValue, match="ratio="):
        hybrid(LINEAR, FULL, ratio)
