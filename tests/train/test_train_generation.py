from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, StateError
from mnemos.models import generation
from mnemos.models.generation import choose, generate, nucleus, stream


@pytest.fixture(scope="module")
def model() -> mn.LanguageModel:
    torch.manual_seed(0)
    spec = mn.zoo.model("gated_deltanet", width=16, depth=2, heads=2, vocabulary=257)
    model = mn.LanguageModel(spec)
    with torch.no_grad():
        for p in model.parameters():  # an untrained model is too sure of itself to show a mistake
            if p.ndim >= 2:
                p.mul_(3)
    return model.eval()


@pytest.fixture
def prompt() -> torch.Tensor:
    return torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(1))


def greedy_by_rereading(model: mn.LanguageModel, tokens: torch.Tensor, length: int) -> torch.Tensor:
    """What generation means: the whole text anew for every token."""
    with torch.no_grad():
        for _ in range(length):
            tokens = torch.cat([tokens, model(tokens)[0][:, -1:].argmax(-1)], 1)
    return tokens[:, -length:]


def test_greedy_generation_is_the_argmax_of_the_parallel_model(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    new, _ = generate(model, prompt, length=25, temperature=0)
    assert torch.equal(new, greedy_by_rereading(model, prompt, 25))
    assert len(set(new.flatten().tolist())) > 5


def test_rows_do_not_matter_to_each_other(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    together, _ = generate(model, prompt, length=10, temperature=0)
    for row in range(3):
        alone, _ = generate(model, prompt[row : row + 1], length=10, temperature=0)
        assert torch.equal(alone, together[row : row + 1])


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"seed": 3}, {"seed": 3, "top_p": 0.8, "temperature": 1.3}])
def test_a_state_goes_on_with_the_same_numbers(
    model: mn.LanguageModel, prompt: torch.Tensor, settings: dict[str, Any], tmp_path: Path
) -> None:
    if "seed" in settings:  # one generator for both halves, as for the whole
        seed = settings.pop("seed")
        one, two = (torch.Generator().manual_seed(seed) for _ in range(2))
        whole, _ = generate(model, prompt, length=12, generator=one, **settings)
        settings["generator"] = two
    else:
        whole, _ = generate(model, prompt, length=12, **settings)
    first, state = generate(model, prompt, length=5, **settings)
    assert state is not None
    state.save(tmp_path / "state.safetensors")
    state = mn.load_state(tmp_path / "state.safetensors", for_=model)
    rest, _ = generate(model, first[:, -1:], length=7, state=state, **settings)
    assert torch.equal(torch.cat([first, rest], 1), whole)


def test_the_callers_state_is_not_spent(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    _, state = generate(model, prompt, length=3, temperature=0)
    once, _ = generate(model, prompt[:, :1], length=6, temperature=0, state=state)
    again, _ = generate(model, prompt[:, :1], length=6, temperature=0, state=state)
    assert torch.equal(once, again)


@pytest.mark.parametrize("piece", [1, 7, 20, 19])
def test_a_long_prompt_is_read_in_pieces(
    model: mn.LanguageModel, prompt: torch.Tensor, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "PIECE", piece)
    with torch.no_grad():
        _, expected = model(prompt)
    _, state = generate(model, prompt, length=1)
    assert state is not None
    for (name, mine), (_, whole) in zip(state.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(mine, whole, msg=name)


def test_a_stream_gives_the_same_tokens_one_by_one(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    new, _ = generate(model, prompt, length=8, seed=4)
    running = stream(model, prompt, length=8, seed=4)
    for column, token in enumerate(running):
        assert torch.equal(token, new[:, column])
        assert torch.is_grad_enabled()  # the caller's own code is not affected between two tokens


def test_seeds_repeat_and_differ(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    def draw(**settings: Any) -> list[int]:
        return generate(model, prompt, length=8, **settings)[0].flatten().tolist()

    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)
    assert draw() != draw()


def test_a_row_that_stops_keeps_its_state_and_is_filled_up(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    free, _ = generate(model, prompt, length=12, temperature=0)
    stop = next(t for t in free[0, 2:].tolist() if t not in free[0, :2].tolist() and t not in free[1].tolist())
    at = free[0].tolist().index(stop)
    new, state = generate(model, prompt[:2], length=12, temperature=0, stop=stop)
    assert new[0].tolist() == free[0, : at + 1].tolist() + [stop] * (11 - at)
    assert new[1].tolist() == free[1].tolist()
    _, alone = generate(model, prompt[:1], length=at + 1, temperature=0)
    assert state is not None and alone is not None
    for (name, mine), (_, expected) in zip(state.select(torch.tensor([0])).tensors(), alone.tensors(), strict=True):
        torch.testing.assert_close(mine, expected, msg=name)

    short, _ = generate(model, prompt[:1], length=12, temperature=0, stop=stop)
    assert short.shape == (1, at + 1)


def test_nucleus_is_the_fewest_tokens_with_enough_probability() -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]])
    kept = {p: [set(row.nonzero().flatten().tolist()) for row in nucleus(probabilities, p)] for p in (0.35, 0.5, 0.95)}
    assert kept == {0.35: [{1}, {0}], 0.5: [{1, 3}, {0}], 0.95: [{0, 1, 2, 3}, {0}]}
    assert bool(nucleus(probabilities, 1.0).all())
    for seed in range(5):
        many = torch.softmax(torch.randn(4, 50, generator=torch.Generator().manual_seed(seed)) * 2, -1)
        mask = nucleus(many, 0.7)
        inside = torch.where(mask, many, 0).sum(-1)
        least = torch.where(mask, many, 2).amin(-1)
        assert bool((inside >= 0.7).all()) and bool((inside - least < 0.7).all())
        assert bool((torch.where(mask, 0, many).amax(-1) <= least).all())


def test_drawing_follows_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().repeat(40_000, 1)
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float | None) -> torch.Tensor:
        return torch.bincount(choose(logits, temperature, top_p, generator), minlength=4) / 40_000

    torch.testing.assert_close(shares(1.0, None), torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=0.01, rtol=0)
    torch.testing.assert_close(shares(1.0, 0.5), torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=0.01, rtol=0)
    squared = torch.tensor([0.01, 0.16, 0.04, 0.09]) / 0.3
    torch.testing.assert_close(shares(0.5, None), squared, atol=0.01, rtol=0)


def test_training_mode_is_left_as_it_was(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    model.train()
    generate(model, prompt, length=2)
    assert model.training
    model.eval()


def test_no_new_tokens(model: mn.LanguageModel, prompt: torch.Tensor) -> None:
    new, state = generate(model, prompt, length=0)
    assert new.shape == (3, 0)
    assert state is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": -1}, "length counts the new tokens and must be at least 0; got -1."),
        (
            {"temperature": -0.5},
            "temperature must be a number of at least 0 (0: always the likeliest); got -0.5.",
        ),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0"),
        ({"top_p": 0.0}, "top_p must lie in (0, 1]; got 0.0."),
        ({"top_p": 1.5}, "top_p must lie in (0, 1]; got 1.5."),
        (
            {"seed": 1, "generator": torch.Generator()},
            "both seed and generator were given. Give one of them.",
        ),
        ({"stop": 257}, "stop must be a token id in [0, 257); got 257."),
        (
            {"tokens": torch.zeros(2, 0, dtype=torch.int64)},
            "with at least one token; got (2, 0). Without a text,",
        ),
        ({"tokens": torch.zeros(4, dtype=torch.int64)}, "must have shape (batch, time)"),
        (
            {"tokens": torch.tensor([[3, 257]])},
            "token ids must lie in [0, 257); the prompt has ids from 3 to 257.",
        ),
        ({"tokens": torch.tensor([[-1]])}, "the prompt has ids from -1 to -1."),
    ],
)
def test_unfit_values_are_refused(
    model: mn.LanguageModel, prompt: torch.Tensor, settings: dict[str, Any], message: str
) -> None:
    arguments = {"tokens": prompt, "length": 3, **settings}
    with pytest.raises(InvalidValue, match=re.escape(message)):
        generate(model, **arguments)


def test_other_errors(
    model: mn.LanguageModel, prompt: torch.Tensor, make_model: Callable[..., mn.LanguageModel]
) -> None:
    with pytest.raises(
        InvalidType, match=re.escape("the prompt must be a tensor of int64 token ids; got torch.float32")
    ):
        generate(model, prompt.float(), length=1)
    with pytest.raises(StateError, match="another owner"):
        generate(model, prompt, length=1, state=make_model(width=8).init_state(3))
    broken = make_model(width=8)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidValue, match="the model's logits are not finite"):
        generate(broken, prompt, length=1)


@pytest.fixture
def make_model() -> Callable[..., mn.LanguageModel]:
    def make(width: int) -> mn.LanguageModel:
        return mn.LanguageModel(mn.zoo.model("linear_attention", width=width, depth=1, heads=2, vocabulary=257))

    return make
