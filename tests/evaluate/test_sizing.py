"""Systems made of equal size."""

import pytest

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.evaluate.sizing import grows, parameters, state_bytes, with_parameters, with_state


def small(name: str) -> mn.ModelSpec:
    return mn.zoo.model(name, width=32, depth=2, heads=2, vocabulary=32)


@pytest.mark.parametrize(
    "name",
    ["mamba2", "linear_attention", "retnet", "sliding_window", "h2o", "ttt_mlp", "titans_mag", "log_linear_mamba2"],
)
def test_a_system_gets_the_state_asked_for(name: str) -> None:
    spec = small(name)
    wanted = round(0.4 * state_bytes(spec))
    found = with_state(spec, wanted)
    assert abs(mn.LanguageModel(found).init_state(1).nbytes / wanted - 1) <= 0.1
    assert found.width == spec.width and found.depth == spec.depth


def test_a_window_is_scaled_and_a_convolution_is_not() -> None:
    found = with_state(small("sliding_window"), 16_000)
    assert isinstance(found.pattern[0], mn.LayerSpec)
    assert 20 < found.pattern[0].memory.retain.size < 40  # 2 layers x 2 x 32 channels x 4 bytes: 512 an entry
    assert with_state(small("gated_deltanet"), 20_000).pattern[0].conv == 4


def test_feed_forward_layers_make_up_for_missing_parameters() -> None:
    wanted = parameters(small("gated_deltanet"))
    found = with_parameters(small("linear_attention"), wanted)
    step = 2 * 3 * 32 * 8  # two layers of three matrices, 8 channels wider
    assert abs(mn.LanguageModel(found).parameters_count() - wanted) <= step / 2
    assert found.ffn > small("linear_attention").ffn


def test_what_keeps_every_token_grows() -> None:
    assert grows(small("transformer")) and not grows(small("gated_deltanet")) and not grows(small("sliding_window"))
    assert state_bytes(small("transformer"), 50) > state_bytes(small("transformer"), 10)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("transformer", 9000, "grows with the text, so its state cannot be made 9,000 bytes"),
        ("hawk", 9000, "cannot be given a state of 9,000 bytes, to 10%, .*; the nearest has"),
    ],
)
def test_sizes_that_cannot_be(name: str, wanted: int, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        with_state(small(name), wanted)


def test_parameters_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match="with the narrowest feed-forward layers, more than the 1,000 asked for"):
        with_parameters(small("gated_deltanet"), 1000)
