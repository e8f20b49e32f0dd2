"""The laws of models for models whose inputs are vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import MODELS, WIDTH, assert_close, assert_states_close
from torch import Tensor

import mnemos as mn
from mnemos.errors import Diverged, InvalidType, InvalidValue, MnemosError, StateError

SOME_MODELS = ("gated_deltanet", "transformer", "titans_mac", "rmt")
INPUTS, OUTPUTS = 3, 2

each_kind = pytest.mark.parametrize("name", SOME_MODELS)


def make(name: str = "gated_deltanet", inputs: int = INPUTS, outputs: int = OUTPUTS, **changes: Any) -> mn.VectorModel:
    return mn.VectorModel(MODELS[name].replace(**changes), inputs=inputs, outputs=outputs).double()


def vectors(batch: int, time: int) -> Tensor:
    return torch.randn(batch, time, INPUTS, dtype=torch.float64)


@each_kind
def test_piece_by_piece_is_the_whole(name: str) -> None:
    model, x = make(name), vectors(2, 21)
    whole, last = model(x)
    assert whole.shape == (2, 21, OUTPUTS)
    with torch.no_grad():
        state, outputs = model.init_state(2), []
        for piece in x.split([1, 7, 1, 12], 1):
            y, state = model(piece, state)
            outputs.append(y)
    assert_close(torch.cat(outputs, 1), whole, "piece by piece")
    assert_states_close(state, last)


@each_kind
def test_documents_and_padding_are_what_they_are_alone(name: str) -> None:
    model, x = make(name), vectors(2, 15)
    reset, mask = torch.zeros(2, 15, dtype=torch.bool), torch.ones(2, 15, dtype=torch.bool)
    reset[0, 6] = True
    mask[1, [0, 4, 5, 14]] = False
    y, state = model(x, reset=reset, mask=mask)
    assert_close(y[0, 6:], model(x[:1, 6:])[0][0], "after a reset")
    alone, after = model(x[1:, mask[1]])
    assert_close(y[1, mask[1]], alone[0], "between padding")
    assert (y[1, ~mask[1]] == 0).all()
    assert_states_close(state.select(torch.tensor([1])), after)


def test_it_computes_what_it_says() -> None:
    """A linear layer in, the blocks, the norm, a linear layer out; the blocks are those of a language model."""
    model, x = make(), vectors(2, 9)
    tokens = mn.LanguageModel(MODELS["gated_deltanet"]).double()
    tokens.blocks.load_state_dict(model.blocks.state_dict())
    y = x @ model.embedding.weight.mT + model.embedding.bias
    tokens.embedding.register_forward_hook(lambda module, given, out: y)
    tokens.head = torch.nn.Linear(WIDTH, OUTPUTS, bias=False).double()
    tokens.head.weight = model.head.weight
    logits, _ = tokens(torch.zeros(2, 9, dtype=torch.int64))
    assert_close(model(x)[0], logits + model.head.bias, "the same blocks")


def test_every_weight_learns() -> None:
    model = make()
    model(vectors(2, 9))[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_graph_same_numbers() -> None:
    torch._dynamo.reset()
    model, x = make("linear_attention", depth=1), vectors(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager_decomp_partition")
    compiled(x)  # first of all, so that nothing that plain code has left behind is needed
    _, state = model(vectors(2, 3))
    for start in (None, state.detach()):
        y, after = compiled(x, start)
        expected, last = model(x, start)
        assert_close(y, expected, "compiled", 1e-8)
        assert_states_close(after, last, tolerance=1e-8)


def test_deep_models_begin_with_blocks_that_add_little() -> None:
    down = make(depth=8).get_submodule("blocks.3.ffn.down").weight
    assert isinstance(down, Tensor)
    assert abs(float(down.detach().std()) * (2 * 8 * down.shape[1]) ** 0.5 - 1) < 0.2


def test_saved_states_go_on_in_a_model_built_anew(tmp_path: Path) -> None:
    model, x = make(), vectors(2, 12)
    _, state = model(x[:, :5])
    path = state.save(tmp_path / "state.safetensors")
    expected, _ = model(x[:, 5:], state)
    fresh = mn.VectorModel(mn.from_json(model.spec.to_json()), inputs=INPUTS, outputs=OUTPUTS).double()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x[:, 5:], mn.load_state(path, for_=fresh))[0], expected)
    for other in (make(outputs=1), make(inputs=1), make(depth=1), mn.LanguageModel(model.spec)):
        with pytest.raises(StateError, match=rf"{type(other).__name__}: this state belongs to another owner"):
            mn.load_state(path, for_=other)


def test_no_rows_and_no_vectors() -> None:
    model = make()
    y, state = model(vectors(3, 0))
    assert y.shape == (3, 0, OUTPUTS) and state.batch == 3
    x = vectors(3, 4)
    assert_close(model(x, state)[0], model(x)[0], "after nothing")
    y, state = model(vectors(0, 4))
    assert y.shape == (0, 4, OUTPUTS) and state.batch == 0


def test_the_bill() -> None:
    model = make()
    other = mn.LanguageModel(MODELS["gated_deltanet"])
    blocks = sum(p.numel() for p in other.blocks.parameters()) + WIDTH
    assert model.parameters_count() == blocks + WIDTH * (INPUTS + 1) + OUTPUTS * (WIDTH + 1)
    outer = 2 * WIDTH * (INPUTS + OUTPUTS - model.spec.vocabulary)
    assert model.flops_per_token(64) == other.flops_per_token(64) + outer
    assert model.state_bytes() == model.init_state(1).nbytes == model.state_bytes(context=9)
    assert make("transformer").state_bytes(context=9) > make("transformer").state_bytes(context=3)
    assert f"{model.parameters_count():,} parameters" in model.explain(64)


def test_what_diverges_is_named() -> None:
    model, x = make(), vectors(2, 9)
    with torch.no_grad():
        model.embedding.weight.fill_(1e300)
        model.embedding.weight[0] = -1e300
    with pytest.raises(Diverged, match=r"layer 0, token 0 of row"):
        model(x * 1e200, checks=True)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(Diverged, match=r"weights of the model are not finite themselves: head\.bias\."):
        model(x, checks=True)


BAD: dict[str, tuple[Callable[[], Any], type[MnemosError], str]] = {
    "tokens": (
        lambda: make()(torch.zeros(1, 2, 3, dtype=torch.int64)),
        InvalidType,
        r"x must be a floating point tensor; got torch\.int64\.",
    ),
    "no batch": (lambda: make()(vectors(2, 3)[0]), InvalidValue, r"x must be \(batch, time, 3\); got shape \(3, 3\)\."),
    "other channels": (lambda: make()(vectors(2, 3)[..., :2]), InvalidValue, r"got shape \(2, 3, 2\)\."),
    "another dtype": (
        lambda: make()(vectors(2, 3).float()),
        InvalidType,
        r"x is torch\.float32 and the model's weights are torch\.float64: convert the one or the other\.",
    ),
    "NaN": (
        lambda: make()(torch.full((1, 2, 3), torch.nan, dtype=torch.float64)),
        InvalidValue,
        r"x holds NaN or infinity, first at index \[0, 0, 0\]",
    ),
    "a mask of another shape": (
        lambda: make()(vectors(2, 3), mask=torch.ones(2, 4, dtype=torch.bool)),
        InvalidValue,
        r"mask= must have shape \(batch, time\) = \(2, 3\)",
    ),
    "another model's state": (
        lambda: make()(vectors(2, 3), make(outputs=5).init_state(2)),
        StateError,
        r"VectorModel: this state belongs to another owner\. It was made with outputs=5; here stands outputs=2\.",
    ),
    "a state of another batch": (
        lambda: make()(vectors(2, 3), make().init_state(1)),
        StateError,
        "VectorModel: the state has 1 rows and the input 2",
    ),
    "no channels": (lambda: make(inputs=0), InvalidValue, r"VectorModel\(inputs=\) is a whole number .* got 0\."),
    "half a channel": (lambda: make(outputs=0.5), InvalidValue, r"VectorModel\(outputs=\)"),  # pyright: ignore
    "no spec": (
        lambda: mn.VectorModel(mn.Memory(), inputs=1, outputs=1),  # pyright: ignore
        InvalidType,
        r"VectorModel\(spec\)= takes a ModelSpec",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused(name: str) -> None:
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()
