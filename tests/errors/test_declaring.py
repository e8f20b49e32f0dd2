"""What is said to someone who declares something that cannot be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, MnemosError
from mnemos.layers import Constant, LowRankDecay, Sigmoid

Case = tuple[Callable[..., Any], dict[str, Any], type[MnemosError], str]

DELTA = mn.Memory()

CASES: list[Case] = [
    # structures
    (mn.MLP, {"depth": 0}, InvalidValue, "MLP(depth=): 1 to 8 weight matrices; got 0."),
    (mn.MLP, {"depth": 9}, InvalidValue, "MLP(depth=): 1 to 8 weight matrices; got 9."),
    (mn.MLP, {"depth": 2.0}, InvalidType, "MLP(depth=) takes int; got 2.0."),
    (mn.MLP, {"depth": True}, InvalidType, "MLP(depth=) takes int; got True."),
    (mn.MLP, {"expansion": 0}, InvalidValue, "MLP(expansion=): a whole number of at least 1; got 0."),
    (mn.MLP, {"activation": "tanh"}, InvalidValue, "MLP(activation=) is one of ('gelu', 'silu', 'relu'); got 'tanh'."),
    (mn.MLP, {"norm": 1}, InvalidType, "MLP(norm=) takes bool; got 1."),
    (mn.Matrix, {"learned": "yes"}, InvalidType, "Matrix(learned=) takes bool; got 'yes'."),
    # objectives
    (
        mn.Huber,
        {"delta": 0.0},
        InvalidValue,
        "Huber(delta=) must be positive, or None for a control per token; got 0.0.",
    ),
    (
        mn.Huber,
        {"delta": math.nan},
        InvalidValue,
        "Huber(delta=) must be positive, or None for a control per token; got nan.",
    ),
    (mn.Huber, {"delta": torch.ones(())}, InvalidType, "Huber(delta=) takes float | None; got tensor(1.)."),
    # retentions
    (mn.Decay, {"per": "token"}, InvalidValue, 'Decay(per=) is "head", "channel", '),
    # learners
    (mn.Chunk, {"size": 0}, InvalidValue, "Chunk(size=) is a number of tokens of at least 1; got 0."),
    (mn.Chunk, {"size": 1.5}, InvalidType, "Chunk(size=) takes int; got 1.5."),
    (mn.GD, {"anchor": 16}, InvalidValue, 'GD(anchor=) is "retained", "previous" or Chunk(n); got 16.'),
    (mn.GD, {"anchor": "chunk"}, InvalidValue, "or Chunk(n); got 'chunk'."),
    (
        mn.GD,
        {"rate": -1.0},
        InvalidValue,
        "GD(rate=) is a number of at least 0, or None for a control per token; got -1.0.",
    ),
    (mn.GD, {"rate": math.inf}, InvalidValue, "or None for a control per token; got inf."),
    (mn.GD, {"rate": "fast"}, InvalidType, "GD(rate=) takes float | None; got 'fast'."),
    (mn.GD, {"momentum": 0.9}, InvalidType, "GD(momentum=) takes bool; got 0.9."),
    # memories
    (
        mn.Memory,
        {"structure": mn.MLP},
        InvalidType,
        "structure= takes a Structure, for example Matrix() or MLP(depth=2); got the class MLP itself.",
    ),
    (
        mn.Memory,
        {"structure": mn.L2()},
        InvalidType,
        "structure= takes a Structure, for example Matrix() or MLP(depth=2); got L2().",
    ),
    (mn.Memory, {"objective": "l2"}, InvalidType, "objective= takes a Objective, for example L2() or Dot(); got 'l2'."),
    (
        mn.Memory,
        {"retention": 0.9},
        InvalidType,
        'retention= takes a Retention, for example Keep() or Decay(per="head"); got 0.9.',
    ),
    (
        mn.Memory,
        {"learner": mn.Chunk(4)},
        InvalidType,
        "learner= takes a Learner, for example GD(momentum=True); got Chunk(",
    ),
    (
        mn.Memory,
        {"read_timing": "never"},
        InvalidValue,
        'Memory(read_timing=) is "after" or "before" the write; got \'never\'.',
    ),
    (mn.Window, {"size": 0}, InvalidValue, "Window(size=) counts the current token, so at least 1; got 0."),
    (mn.Window, {"sinks": -1}, InvalidValue, "Window(sinks=) is a number of entries, at least 0; got -1."),
    (mn.Softmax, {"scale": 0.0}, InvalidValue, "Softmax(scale=) must be positive; got 0.0."),
    (mn.Softmax, {"rotary": 1.0}, InvalidValue, "Softmax(rotary=) is a base above 1; got 1.0."),
    (
        mn.KVMemory,
        {"retain": 256},
        InvalidType,
        "retain= takes a Retain, for example Everything() or Window(256); got 256.",
    ),
    (
        mn.KVMemory,
        {"read": mn.Window()},
        InvalidType,
        "read= takes a Read, for example Softmax(rotary=10000.0); got Window(",
    ),
    (
        mn.KVMemory,
        {"write": mn.Append},
        InvalidType,
        "write= takes a Append, for example Append(); got the class Append itself.",
    ),
    # controls
    (Sigmoid, {"high": 0.0}, InvalidValue, "Sigmoid(high=) must be positive; got 0.0."),
    (LowRankDecay, {"rank": 0}, InvalidValue, "LowRankDecay(rank=) must be at least 1; got 0."),
    (LowRankDecay, {"temperature": 0.0}, InvalidValue, "LowRankDecay(temperature=) must be positive; got 0.0."),
    (Constant, {"value": "a"}, InvalidType, "Constant(value=) takes float; got 'a'."),
    # layers
    (
        mn.LayerSpec,
        {"memory": mn.Matrix()},
        InvalidType,
        "LayerSpec(memory=) takes a memory, for example Memory(); "
        "the spec of a whole model goes to LanguageModel. Got Matrix(",
    ),
    (
        mn.LayerSpec,
        {"memory": mn.Memory},
        InvalidType,
        "LayerSpec(memory=) takes a memory, for example Memory(); "
        "the spec of a whole model goes to LanguageModel. Got <class",
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "controls": {"decay": Sigmoid()}},
        InvalidValue,
        "LayerSpec(controls=) names ['decay'], which the memory does not take; it takes ['rate'].",
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "controls": {"rate": 0.5}},
        InvalidType,
        "LayerSpec(controls=rate)= takes a ControlRule, for example Sigmoid(); got 0.5.",
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "keys": "relu"},
        InvalidType,
        "keys= takes a FeatureMap, for example Unit(); got 'relu'.",
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "norm": "layer"},
        InvalidValue,
        'LayerSpec(norm=) is "rms", "sum" or None; got \'layer\'.',
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "gate": "tanh"},
        InvalidValue,
        'LayerSpec(gate=) is "swish", "sigmoid" or None; got \'tanh\'.',
    ),
    (mn.LayerSpec, {"memory": DELTA, "hold": 0}, InvalidValue, "LayerSpec(hold=) is a number of tokens of at least 1"),
    (mn.LayerSpec, {"memory": DELTA, "conv": 1}, InvalidValue, "LayerSpec(conv=) spans at least 2 tokens; got 1."),
    (
        mn.LayerSpec,
        {"memory": DELTA, "persistent": -1},
        InvalidValue,
        "LayerSpec(persistent=) is a number of tokens; got -1.",
    ),
    (
        mn.LayerSpec,
        {"memory": DELTA, "kv_heads": 1},
        InvalidValue,
        "LayerSpec(kv_heads=) is for memories that several heads can share; ",
    ),
    (
        mn.LayerSpec,
        {"memory": mn.KVMemory(), "kv_heads": 0},
        InvalidValue,
        "LayerSpec(kv_heads=) is at least 1; got 0.",
    ),
    (
        mn.LayerSpec,
        {"memory": mn.KVMemory(retain=mn.Window(4, sinks=1)), "persistent": 2},
        InvalidValue,
        "2 persistent tokens would slide out of the window: keep them as sinks, Window(4, sinks=2).",
    ),
    (
        mn.AsGate,
        {"layer": DELTA, "gate": mn.zoo.titans_lmm()},
        InvalidType,
        "layer= takes a LayerDeclaration, for example zoo.sliding_window(); got Memory(",
    ),
    (
        mn.AsGate,
        {"layer": mn.zoo.sliding_window(), "gate": None},
        InvalidType,
        "gate= takes a LayerDeclaration, for example zoo.titans_lmm(); got None.",
    ),
    (
        mn.AsContext,
        {"memory": DELTA},
        InvalidType,
        "memory= takes a LayerSpec, for example zoo.titans_lmm(chunk=32); got Memory(",
    ),
    (
        mn.AsContext,
        {"memory": mn.zoo.deltanet()},
        InvalidValue,
        "AsContext(memory=) needs a memory whose gradients are anchored at its segments, for "
        "example zoo.titans_lmm(chunk=32); got Memory(",
    ),
    (
        mn.AsContext,
        {"memory": mn.zoo.sliding_window()},
        InvalidValue,
        "AsContext(memory=) needs a memory whose gradients are anchored at its segments",
    ),
    (
        mn.AsContext,
        {"memory": mn.zoo.titans_lmm(), "persistent": -1},
        InvalidValue,
        "AsContext(persistent=) is a number of tokens; got -1.",
    ),
    # models
    (mn.ModelSpec, {"pattern": ()}, InvalidValue, "ModelSpec(pattern=) names at least one layer."),
    (
        mn.ModelSpec,
        {"pattern": "gla"},
        InvalidType,
        "ModelSpec(pattern=) holds layer specs or memories, such as zoo.gated_deltanet(); got 'gla'.",
    ),
    (
        mn.ModelSpec,
        {"pattern": [mn.zoo.gla]},
        InvalidType,
        "ModelSpec(pattern=) holds layer specs or memories, such as zoo.gated_deltanet(); got <function gla",
    ),
    (
        mn.ModelSpec,
        {"pattern": DELTA, "vocabulary": 0},
        InvalidValue,
        "ModelSpec(vocabulary=) is a whole number of at least 1; got 0.",
    ),
    (
        mn.ModelSpec,
        {"pattern": DELTA, "depth": 0},
        InvalidValue,
        "ModelSpec(depth=) is a whole number of at least 1; got 0.",
    ),
    (mn.ModelSpec, {"pattern": DELTA, "width": 64.0}, InvalidType, "ModelSpec(width=) takes int; got 64.0."),
    (
        mn.ModelSpec,
        {"pattern": DELTA, "width": 10, "heads": 3},
        InvalidValue,
        "ModelSpec(width=) must be a multiple of heads; got width=10, heads=3.",
    ),
    (
        mn.ModelSpec,
        {"pattern": DELTA, "ffn": -1.0},
        InvalidValue,
        "ModelSpec(ffn=) is a factor of at least 0; got -1.0.",
    ),
    (mn.ModelSpec, {"pattern": DELTA, "tied": 1}, InvalidType, "ModelSpec(tied=) takes bool; got 1."),
    # JSON
    (mn.from_json, {"text": "{"}, InvalidValue, "a declaration must be JSON; this is not: "),
    (mn.from_json, {"text": None}, InvalidType, "from_json takes the text that to_json wrote; got NoneType."),
    (
        mn.from_json,
        {"text": '{"kind": "Memroy"}'},
        InvalidValue,
        "unknown kind of declaration 'Memroy'; known are A",
    ),
    (mn.from_json, {"text": '{"kind": ["GD"]}'}, InvalidValue, "unknown kind of declaration ['GD']; known are "),
    (
        mn.from_json,
        {"text": '{"kind": "Structure"}'},
        InvalidValue,
        "unknown kind of declaration 'Structure'; known are ",
    ),
    (mn.from_json, {"text": "{}"}, InvalidValue, "unknown kind of declaration None; known are "),
    (mn.from_json, {"text": '{"kind": "GD", "speed": 1}'}, InvalidValue, "GD has no field speed."),
    (mn.from_json, {"text": '{"kind": "LayerSpec"}'}, InvalidValue, "LayerSpec cannot be made from []: "),
    (mn.from_json, {"text": '{"kind": "GD", "rate": -1}'}, InvalidValue, "GD(rate=) is a number of at least 0"),
    (
        mn.from_json,
        {"text": '{"kind": "Memory", "structure": {"kind": "L2"}}'},
        InvalidValue,
        "Memory cannot be made from ['structure']: structure= takes a Structure",
    ),
    # the zoo
    (
        mn.zoo.entry,
        {"name": "gated_deltnet"},
        InvalidValue,
        "no system is called 'gated_deltnet'; did you mean gated_deltanet, ",
    ),
    (mn.zoo.model, {"name": "titans-lmm"}, InvalidValue, "no system is called 'titans-lmm'; did you mean titans_lmm, "),
    (mn.zoo.model, {"name": "zzz"}, InvalidValue, "did you mean aaren, "),
]


@pytest.mark.parametrize(
    ("make", "given", "kind", "message"), CASES, ids=[f"{c[0].__name__}-{i}" for i, c in enumerate(CASES)]
)
def test_refused(make: Callable[..., Any], given: dict[str, Any], kind: type[MnemosError], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        make(**given)
    assert type(caught.value) is kind
    assert isinstance(caught.value, TypeError if kind is InvalidType else ValueError)


def test_a_name_that_the_zoo_lacks() -> None:
    with pytest.raises(AttributeError, match="no system is called 'gated_deltnet'; did you mean gated_deltanet"):
        mn.zoo.gated_deltnet  # noqa: B018
    assert not hasattr(mn.zoo, "mamba9")


def test_a_declaration_that_holds_a_tensor_is_not_written() -> None:
    from dataclasses import dataclass

    from mnemos.memory import Declaration

    @dataclass(frozen=True)
    class Odd(Declaration):
        value: object

    try:
        with pytest.raises(
            InvalidType, match="a declaration holds plain values and other declarations only; got tensor"
        ):
            Odd(torch.ones(2)).to_json()
    finally:
        del Declaration.kinds["Odd"]


def test_classes_of_errors() -> None:
    from mnemos import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 7
    for kind in kinds:
        assert issubclass(kind, MnemosError)
        assert (
            kind is MnemosError or sum(issubclass(kind, base) for base in (ValueError, TypeError, ArithmeticError)) == 1
        )
        assert kind.__doc__


def test_an_unknown_field_is_named_with_the_known_ones() -> None:
    with pytest.raises(mn.MnemosError, match=r"ModelSpec has no field wdth; it has pattern, width, depth"):
        mn.zoo.model("gla", wdth=64)


def test_a_model_is_no_layer() -> None:
    with pytest.raises(TypeError, match="the spec of a whole model goes to LanguageModel"):
        mn.MemoryLayer(mn.zoo.transformer(), width=8, heads=2)


def test_a_rule_that_leaves_its_control_s_range() -> None:
    with pytest.raises(ValueError, match=r"Sigmoid\(high=2\.0\) gives values in \[0, 2\], but decay must stay in"):
        mn.LayerSpec(mn.Memory(retention=mn.Decay()), controls=(("decay", Sigmoid(high=2.0)),))
