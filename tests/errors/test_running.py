"""What is said to someone who runs a memory, a layer or a model on something else than it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, MnemosError, PlanError, StateError

B, T, H, K = 2, 3, 2, 4

DELTA = mn.Memory()
GATED = mn.Memory(retention=mn.Decay(per="channel"), learner=mn.GD(momentum=True))
KEEPING = mn.KVMemory()
NETWORK = mn.Memory(mn.MLP(depth=2))


def x(*shape: int) -> Tensor:
    return torch.randn(*shape or (B, T, H, K))


def rate() -> dict[str, Tensor]:
    return {"rate": torch.rand(B, T, H)}


def gates(**given: Any) -> dict[str, Any]:
    return {"rate": torch.rand(B, T, H), "momentum": torch.rand(B, T, H), "decay": torch.rand(B, T, H, K)} | given


def delta(**given: Any) -> Any:
    return mn.run(DELTA, **({"q": x(), "k": x(), "v": x(), "controls": rate()} | given))


def gated(**given: Any) -> Any:
    return mn.run(GATED, x(), x(), x(), gates(**given))


def with_nan(value: Tensor, *at: int) -> Tensor:
    value[at] = torch.nan
    return value


def spent_state() -> mn.State:
    state = DELTA.init(B, H, K, K)
    with torch.no_grad():
        DELTA.write(state, x(B, H, K), x(B, H, K), {"rate": torch.rand(B, H)})
    return state


RUNS: dict[str, tuple[Callable[[], Any], type[MnemosError], str]] = {
    # what is run
    "not a memory": (
        lambda: mn.run(mn.Matrix(), x(), x(), x()),  # pyright: ignore
        InvalidType,
        "run takes a memory, for example Memory() or zoo.retnet().memory; got Matrix(",
    ),
    "a class": (lambda: mn.run(mn.Memory, x(), x(), x()), InvalidType, "run takes a memory, for example"),  # pyright: ignore
    # on what
    "a list": (lambda: delta(q=[1.0]), InvalidType, "q must be a tensor; got list."),
    "whole numbers": (
        lambda: delta(v=torch.ones(B, T, H, K, dtype=torch.int64)),
        InvalidType,
        "v must be floating point; got torch.int64.",
    ),
    "three axes": (
        lambda: delta(k=x(B, T, K)),
        InvalidValue,
        "k must be (batch, time, heads, key_dim); got shape (2, 3, 4).",
    ),
    "two axes of values": (
        lambda: delta(v=x(B, K)),
        InvalidValue,
        "v must be (batch, time, heads, value_dim); got shape (2, 4).",
    ),
    "another key_dim": (lambda: delta(q=x(B, T, H, 5)), InvalidValue, "q and k must share key_dim; got 5 and 4."),
    "values of other tokens": (
        lambda: delta(v=x(B, 4, H, K)),
        InvalidValue,
        "k and v must share (batch, time, heads); got (2, 3, 2) and (2, 4, 2).",
    ),
    "queries of other tokens": (
        lambda: delta(q=x(B, 4, H, K)),
        InvalidValue,
        "q and k must share (batch, time); got (2, 4) and (2, 3).",
    ),
    "other heads": (
        lambda: delta(q=x(B, T, 4, K)),
        InvalidValue,
        "q must have the same number of heads as k; got 4 and 2.",
    ),
    "heads that cannot be grouped": (
        lambda: mn.run(KEEPING, x(B, T, 3, K), x(), x()),
        InvalidValue,
        "q must have a multiple of k's heads (grouped heads); got 3 and 2.",
    ),
    "another device": (
        lambda: delta(v=torch.empty(B, T, H, K, device="meta")),
        InvalidValue,
        "all inputs must be on one device; q is on cpu and v on meta.",
    ),
    "a control on another device": (
        lambda: delta(controls={"rate": torch.empty(B, T, H, device="meta")}),
        InvalidValue,
        "all inputs must be on one device; q is on cpu and rate on meta.",
    ),
    "another dtype": (
        lambda: delta(k=x().double()),
        InvalidType,
        "q, k and v must share a dtype; q is torch.float32 and k is torch.float64.",
    ),
    "NaN": (
        lambda: delta(k=with_nan(x(), 1, 2, 0, 3)),
        InvalidValue,
        "k holds NaN or infinity, first at index [1, 2, 0, 3] of shape (2, 3, 2, 4).",
    ),
    "infinity": (lambda: delta(v=x() / 0), InvalidValue, "v holds NaN or infinity, first at index [0, 0, 0, 0]"),
    "no heads": (
        lambda: delta(q=x(B, T, 0, K), k=x(B, T, 0, K), v=x(B, T, 0, K), controls={"rate": torch.rand(B, T, 0)}),
        InvalidValue,
        "init(heads=) is too small: 0.",
    ),
    "odd channels to turn": (
        lambda: mn.run(mn.KVMemory(read=mn.Softmax(rotary=10.0)), x(B, T, H, 3), x(B, T, H, 3), x()),
        InvalidValue,
        "rotary positions turn pairs of channels, so key_dim must be even; got 3.",
    ),
    # controls
    "a missing control": (
        lambda: delta(controls={}),
        InvalidValue,
        "missing control 'rate': this memory takes rate (per head: step size of the inner gradient step).",
    ),
    "an unknown control": (
        lambda: delta(controls=rate() | {"decai": torch.rand(B, T, H)}),
        InvalidValue,
        "unknown control 'decai': this memory takes rate (per head: ",
    ),
    "a control for a memory without": (
        lambda: mn.run(KEEPING, x(), x(), x(), rate()),
        InvalidValue,
        "unknown control 'rate': this memory takes no controls.",
    ),
    "a control per head of a memory per channel": (
        lambda: gated(decay=torch.rand(B, T, H)),
        InvalidValue,
        "control 'decay' must have shape (batch, time, heads, key_dim) = (2, 3, 2, 4); got (2, 3, 2).",
    ),
    "a control with an axis too many": (
        lambda: gated(rate=torch.rand(B, T, H, 1)),
        InvalidValue,
        "control 'rate' must have shape (batch, time, heads) = (2, 3, 2); got (2, 3, 2, 1).",
    ),
    "a decay above 1": (
        lambda: gated(decay=torch.full((B, T, H, K), 1.5)),
        InvalidValue,
        "control 'decay' must lie in [0, 1] (retention factor that multiplies the state; 0 erases it); "
        "got values from 1.5 to 1.5.",
    ),
    "a logarithm for a decay": (
        lambda: gated(decay=torch.full((B, T, H, K), -0.25)),
        InvalidValue,
        "control 'decay' must lie in [0, 1]",
    ),
    "a momentum above 1": (
        lambda: gated(momentum=torch.full((B, T, H), 2.0)),
        InvalidValue,
        "control 'momentum' must lie in [0, 1] (share of the previous step that goes on); got values from 2 to 2.",
    ),
    "a negative rate": (
        lambda: gated(rate=torch.full((B, T, H), -1.0)),
        InvalidValue,
        "control 'rate' must lie in [0, inf] (step size of the inner gradient step); got values from -1 to -1.",
    ),
    "a control with NaN": (
        lambda: gated(rate=with_nan(torch.rand(B, T, H), 0, 1, 1)),
        InvalidValue,
        "control 'rate' holds NaN or infinity, first at index [0, 1, 1] of shape (2, 3, 2).",
    ),
    "a control of whole numbers": (
        lambda: gated(rate=torch.ones(B, T, H, dtype=torch.int64)),
        InvalidType,
        "control 'rate' must be a floating point tensor; got torch.int64.",
    ),
    # initial weights
    "a network without weights": (
        lambda: mn.run(NETWORK, x(), x(), x(), rate()),
        InvalidValue,
        "MLP needs initial weights (a network of zeros cannot learn): pass "
        "weights=memory.initial_weights(heads=2, key_dim=4, value_dim=4).",
    ),
    "weights of another name": (
        lambda: delta(weights={"w": x(H, K, K)}),
        InvalidValue,
        "weights= must name ['matrix']; got ['w'].",
    ),
    "weights of another shape": (
        lambda: delta(weights={"matrix": x(H, K, 5)}),
        InvalidValue,
        "weights['matrix'] must have shape (heads, out, in) = (2, 4, 4); got (2, 4, 5).",
    ),
    "a number for a weight": (
        lambda: delta(weights={"matrix": 1.0}),
        InvalidType,
        "weights['matrix'] must be a floating point tensor; got float.",
    ),
    "weights of whole numbers": (
        lambda: delta(weights={"matrix": torch.ones(H, K, K, dtype=torch.int64)}),
        InvalidType,
        "weights['matrix'] must be a floating point tensor; got torch.int64.",
    ),
    "weights for a store": (
        lambda: mn.run(KEEPING, x(), x(), x(), weights={"matrix": x(H, K, K)}),
        InvalidValue,
        "a key-value memory starts empty and takes no weights.",
    ),
    "a residual over unequal widths": (
        lambda: mn.run(NETWORK, x(), x(), x(B, T, H, 5), rate(), {"layer1": x(H, 16, K)}),
        InvalidValue,
        "MLP(residual=True) adds the key to the value, so their dimensions must agree; got key_dim=4 and "
        "value_dim=5. Use MLP(residual=False) or equal dimensions.",
    ),
    # flags
    "numbers for a mask": (
        lambda: delta(mask=torch.ones(B, T)),
        InvalidType,
        "mask= takes a boolean tensor; got torch.float32.",
    ),
    "a list for a mask": (lambda: delta(mask=[[True]]), InvalidType, "mask= takes a boolean tensor; got list."),
    "a reset of another length": (
        lambda: delta(reset=torch.ones(B, 4, dtype=torch.bool)),
        InvalidValue,
        "reset= must have shape (batch, time) = (2, 3); got (2, 4).",
    ),
    # states
    "a pair for a state": (
        lambda: delta(state=delta()),
        InvalidType,
        "run: state= takes a State or None; got tuple. A call returns a pair (output, state): pass its second part.",
    ),
    "a state of another memory": (
        lambda: delta(state=KEEPING.init(B, H, K, K)),
        StateError,
        'run: this state belongs to another owner. It was made with memory={"kind": "KVMemory"}; '
        'here stands memory={"kind": "Memory"}.',
    ),
    "a state of another width": (
        lambda: delta(state=DELTA.init(B, H, 5, K)),
        StateError,
        "It was made with key_dim=5; here stands key_dim=4. Make one with init_state(batch) or memory.init(...).",
    ),
    "a state of another batch": (
        lambda: delta(state=DELTA.init(5, H, K, K)),
        StateError,
        "run: the state has 5 rows and the input 2. Use state.select(rows) to regroup the rows",
    ),
    "a state on another device": (
        lambda: delta(state=DELTA.init(B, H, K, K, device="meta")),
        StateError,
        "run: the state is on meta and the input on cpu. Move it: state.to('cpu').",
    ),
    "a spent state": (
        lambda: delta(state=spent_state()),
        StateError,
        "this state was already moved on: with gradients off, a step updates the state in place and returns its "
        "successor. Use the state that the step returned, or call state.clone() before the step to branch.",
    ),
    # plans
    "an unknown plan": (
        lambda: delta(plan="triangular"),
        PlanError,
        "no plan is called 'triangular'; there are \"reference\", 'compiled recurrence', ",
    ),
    "a plan for other objectives": (
        lambda: delta(plan="cumulative decay"),
        PlanError,
        "the objective's gradient depends on the state (only Dot's does not).",
    ),
    "a plan for anchored gradients": (
        lambda: delta(plan="anchored dual"),
        PlanError,
        "gradients are taken token by token, not at the start of a chunk (GD(anchor=Chunk(n))).",
    ),
    "a plan for windows": (
        lambda: mn.run(KEEPING, x(), x(), x(), plan="windowed attention"),
        PlanError,
        "what the memory keeps is not a window.",
    ),
    "a plan for stores": (
        lambda: delta(plan="full attention"),
        PlanError,
        "it is for a KVMemory; this is a Memory that learns by GD.",
    ),
    "a plan for learners": (
        lambda: mn.run(KEEPING, x(), x(), x(), plan="triangular delta"),
        PlanError,
        "it is for a Memory that learns by GD; this is a KVMemory.",
    ),
    "a plan for matrices": (
        lambda: mn.run(NETWORK, x(), x(), x(), rate(), NETWORK.initial_weights(H, K, K), plan="triangular delta"),
        PlanError,
        "the structure is not a single matrix.",
    ),
    # memory.init
    "a fractional batch": (
        lambda: DELTA.init(1.5, H, K, K),  # pyright: ignore
        InvalidType,
        "init(batch=) is a whole number; got 1.5.",
    ),
    "a negative batch": (lambda: DELTA.init(-1, H, K, K), InvalidValue, "init(batch=) is too small: -1."),
    "no channels": (lambda: KEEPING.init(B, H, 0, K), InvalidValue, "init(key_dim=) is too small: 0."),
    "controls for a store's write": (
        lambda: KEEPING.write(KEEPING.init(B, H, K, K), x(B, H, K), x(B, H, K), {"rate": torch.rand(B, H)}),
        InvalidValue,
        "unknown control 'rate': this memory takes no controls.",
    ),
}


def check(call: Callable[[], Any], kind: type[MnemosError], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is kind
    assert isinstance(caught.value, MnemosError)
    assert isinstance(caught.value, TypeError if kind is InvalidType else ValueError)


@pytest.mark.parametrize("name", RUNS)
def test_memories(name: str) -> None:
    check(*RUNS[name])


def layer(**spec: Any) -> mn.MemoryLayer:
    return mn.MemoryLayer(mn.LayerSpec(DELTA, **spec), width=8, heads=2)


LAYERS: dict[str, tuple[Callable[[], Any], type[MnemosError], str]] = {
    "whole numbers": (
        lambda: layer()(torch.ones(B, T, 8, dtype=torch.int64)),
        InvalidType,
        "x must be a floating point tensor; got torch.int64.",
    ),
    "a list": (lambda: layer()([1.0]), InvalidType, "x must be a floating point tensor; got list."),
    "another width": (lambda: layer()(x(B, T, 9)), InvalidValue, "x must be (batch, time, 8); got shape (2, 3, 9)."),
    "no batch": (lambda: layer()(x(T, 8)), InvalidValue, "x must be (batch, time, 8); got shape (3, 8)."),
    "another dtype": (
        lambda: layer()(x(B, T, 8).double()),
        InvalidType,
        "x is torch.float64 and the layer's weights are torch.float32: convert the one or the other.",
    ),
    "NaN": (
        lambda: layer()(with_nan(x(B, T, 8), 1, 0, 7)),
        InvalidValue,
        "x holds NaN or infinity, first at index [1, 0, 7] of shape (2, 3, 8).",
    ),
    "a mask of numbers": (
        lambda: layer()(x(B, T, 8), mask=torch.ones(B, T)),
        InvalidType,
        "mask= takes a boolean tensor; got torch.float32.",
    ),
    "a reset of another shape": (
        lambda: layer()(x(B, T, 8), reset=torch.ones(B, dtype=torch.bool)),
        InvalidValue,
        "reset= must have shape (batch, time) = (2, 3); got (2,).",
    ),
    "a pair for a state": (
        lambda: layer()(x(B, T, 8), layer()(x(B, T, 8))),
        InvalidType,
        "MemoryLayer: state= takes a State or None; got tuple.",
    ),
    "a memory's state": (
        lambda: layer()(x(B, T, 8), DELTA.init(B, 2, 4, 4)),
        StateError,
        "MemoryLayer: this state belongs to another owner. It was made with memory=",
    ),
    "another layer's state": (
        lambda: layer()(x(B, T, 8), layer(conv=4).init_state(B)),
        StateError,
        'It was made with layer={"kind": "LayerSpec", "memory": {"kind": "Memory"}, "conv": 4}; '
        'here stands layer={"kind": "LayerSpec", "memory": {"kind": "Memory"}}.',
    ),
    "a state of another batch": (
        lambda: layer()(x(B, T, 8), layer().init_state(3)),
        StateError,
        "MemoryLayer: the state has 3 rows and the input 2.",
    ),
    "a state on another device": (
        lambda: layer()(x(B, T, 8), layer().init_state(B).to("meta")),
        StateError,
        "MemoryLayer: the state is on meta and the input on cpu.",
    ),
    "a negative batch": (lambda: layer().init_state(-1), InvalidValue, "init_state takes a number of rows; got -1."),
    "a length of zero": (
        lambda: layer().explain(0),
        InvalidValue,
        "explain(length=) is a number of tokens of at least 1; got 0.",
    ),
    "heads that do not divide the width": (
        lambda: mn.MemoryLayer(DELTA, width=10, heads=4),
        InvalidValue,
        "width must be a multiple of heads; got width=10, heads=4.",
    ),
    "no heads": (
        lambda: mn.MemoryLayer(DELTA, width=8, heads=0),
        InvalidValue,
        "width and heads are whole numbers of at least 1; got width=8, heads=0.",
    ),
    "channels that cannot be shared": (
        lambda: mn.MemoryLayer(mn.LayerSpec(DELTA, key_expand=0.3), width=8, heads=4),
        InvalidValue,
        "width * key_expand = 2 channels cannot be shared between 4 heads; choose another width or heads.",
    ),
    "grouped heads that do not divide": (
        lambda: mn.MemoryLayer(mn.LayerSpec(KEEPING, kv_heads=3), width=8, heads=4),
        InvalidValue,
        "heads must be a multiple of kv_heads; got 4 and 3.",
    ),
    "rotation of odd channels": (
        lambda: mn.MemoryLayer(mn.LayerSpec(DELTA, rotation=True), width=6, heads=2),
        InvalidValue,
        "rotation needs an even key_dim; got 3.",
    ),
    "a context of odd heads": (
        lambda: mn.zoo.titans_mac().pattern[0].build(6, 2),
        InvalidValue,
        "rotary positions need an even width per head; got 3.",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    check(*LAYERS[name])


def model(**changes: Any) -> mn.LanguageModel:
    return mn.LanguageModel(
        mn.ModelSpec(**({"pattern": (DELTA,), "width": 8, "depth": 1, "heads": 2, "vocabulary": 5} | changes))
    )


def tokens() -> Tensor:
    return torch.randint(0, 5, (B, T))


MODELS: dict[str, tuple[Callable[[], Any], type[MnemosError], str]] = {
    "fractional tokens": (
        lambda: model()(tokens().float()),
        InvalidType,
        "tokens must be an int64 tensor; got torch.float32.",
    ),
    "a list of tokens": (lambda: model()([1, 2]), InvalidType, "tokens must be an int64 tensor; got list."),
    "one row without a batch": (
        lambda: model()(tokens()[0]),
        InvalidValue,
        "tokens must be (batch, time); got shape (3,).",
    ),
    "tokens beyond the vocabulary": (
        lambda: model()(torch.tensor([[0, 5, 2]])),
        InvalidValue,
        "tokens must lie in [0, 5); got values from 0 to 5.",
    ),
    "negative tokens": (
        lambda: model()(torch.tensor([[0, -1, 2]])),
        InvalidValue,
        "tokens must lie in [0, 5); got values from -1 to 2.",
    ),
    "a mask of another shape": (
        lambda: model()(tokens(), mask=torch.ones(B, T + 1, dtype=torch.bool)),
        InvalidValue,
        "mask= must have shape (batch, time) = (2, 3); got (2, 4).",
    ),
    "a reset of numbers": (
        lambda: model()(tokens(), reset=tokens()),
        InvalidType,
        "reset= takes a boolean tensor; got torch.int64.",
    ),
    "a pair for a state": (
        lambda: model()(tokens(), model()(tokens())),
        InvalidType,
        "LanguageModel: state= takes a State or None; got tuple.",
    ),
    "another model's state": (
        lambda: model()(tokens(), model(width=16).init_state(B)),
        StateError,
        "LanguageModel: this state belongs to another owner. It was made with model=",
    ),
    "a state of another batch": (
        lambda: model()(tokens(), model().init_state(1)),
        StateError,
        "LanguageModel: the state has 1 rows and the input 2.",
    ),
    "a fractional batch": (
        lambda: model().init_state(1.5),
        InvalidValue,
        "init_state takes a number of rows; got 1.5.",
    ),
    "a cost of nothing": (
        lambda: model().flops_per_token(0),
        InvalidValue,
        "the number of tokens must be a whole number of at least 1; got 0.",
    ),
    "an explanation of nothing": (
        lambda: model().explain(0),
        InvalidValue,
        "must be a whole number of at least 1; got 0.",
    ),
    "a memory for a spec": (
        lambda: mn.LanguageModel(DELTA),  # pyright: ignore
        InvalidType,
        "takes a ModelSpec, for example ModelSpec(pattern=[zoo.gated_deltanet()], width=256, depth=4); got Memory(",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    check(*MODELS[name])


def test_a_refused_call_has_done_nothing() -> None:
    """An error comes before any work: with gradients off too, the state is as it was."""
    state = DELTA.init(B, H, K, K)
    held = state["matrix"].clone()
    with torch.no_grad(), pytest.raises(InvalidValue, match="must lie in"):
        mn.run(DELTA, x(B, 1, H, K), x(B, 1, H, K), x(B, 1, H, K), {"rate": -torch.ones(B, 1, H)}, state=state)
    assert not state.spent and torch.equal(state["matrix"], held)


ONE_TOKEN: dict[str, tuple[Callable[[], Any], type[MnemosError], str]] = {
    "a key with a time axis": (
        lambda: DELTA.write(DELTA.init(B, H, K, K), x(B, T, H, K), x(B, H, K), {"rate": torch.ones(B, H)}),
        InvalidValue,
        "k must be (batch, heads, key_dim), one token; got shape (2, 3, 2, 4).",
    ),
    "a missing control": (
        lambda: DELTA.write(DELTA.init(B, H, K, K), x(B, H, K), x(B, H, K)),
        InvalidValue,
        "missing control 'rate': this memory takes rate (per head: step size",
    ),
    "a control of another shape": (
        lambda: DELTA.write(DELTA.init(B, H, K, K), x(B, H, K), x(B, H, K), {"rate": torch.ones(B)}),
        InvalidValue,
        "control 'rate' must have shape (batch, heads) = (2, 2); got (2,).",
    ),
    "a value of another width": (
        lambda: DELTA.write(DELTA.init(B, H, K, K), x(B, H, K), x(B, H, K + 1), {"rate": torch.ones(B, H)}),
        StateError,
        "write: this state belongs to another owner. It was made with value_dim=4; here stands value_dim=5.",
    ),
    "another memory's state": (
        lambda: DELTA.read(mn.zoo.gated_deltanet().memory.init(B, H, K, K), x(B, H, K)),
        StateError,
        "this state belongs to another memory: it was made with memory=",
    ),
    "a query of another width": (
        lambda: DELTA.read(DELTA.init(B, H, K, K), x(B, H, K + 1)),
        InvalidValue,
        "q must be (batch, heads, key_dim) = (2, 2, 4), as the state; got shape (2, 2, 5).",
    ),
    "a step that holds NaN": (
        lambda: DELTA.step(
            DELTA.init(B, H, K, K), x(B, H, K), x(B, H, K), x(B, H, K) * torch.nan, {"rate": torch.ones(B, H)}
        ),
        InvalidValue,
        "v holds NaN or infinity, first at index [0, 0, 0] of shape (2, 2, 4).",
    ),
    "weights that hold NaN": (
        lambda: mn.run(
            mn.Memory(mn.Matrix(learned=True)),
            *(x(B, T, H, K) for _ in range(3)),
            {"rate": torch.ones(B, T, H)},
            {"matrix": x(H, K, K) * torch.nan},
        ),
        InvalidValue,
        "weights['matrix'] holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", ONE_TOKEN)
def test_one_token(name: str) -> None:
    check(*ONE_TOKEN[name])
