"""Law: a declaration is a value: equal, hashable, printed as the call that makes it, and the same after JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest
from cases import MEMORIES, MODELS, NETWORKS, each, name_of

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.memory import AnyMemory, Declaration
from mnemos.models import NetworkDeclaration
from mnemos.zoo.registry import KINDS, published

ENTRIES = mn.zoo.entries()


def assert_is_a_value(declaration: Any) -> None:
    text = declaration.to_json()
    back = mn.from_json(text)
    assert back == declaration and hash(back) == hash(declaration) and back.to_json() == text
    assert "\n" not in text and json.loads(text)["kind"] == type(declaration).__name__
    assert {declaration: 1}[back] == 1
    for shown in (repr(declaration), str(declaration)):
        assert eval(shown, dict(Declaration.kinds)) == declaration
    assert declaration.replace() == declaration
    assert copy.deepcopy(declaration) == declaration
    assert pickle.loads(pickle.dumps(declaration)) == declaration
    field = dataclasses.fields(declaration)[0].name if dataclasses.fields(declaration) else "anything"
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        setattr(declaration, field, None)


@each(MEMORIES)
def test_memories(memory: AnyMemory) -> None:
    assert_is_a_value(memory)
    assert isinstance(memory, AnyMemory)


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_models(spec: mn.ModelSpec) -> None:
    assert_is_a_value(spec)
    for layer in spec.pattern:
        assert_is_a_value(layer)


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_networks(spec: NetworkDeclaration) -> None:
    assert_is_a_value(spec)
    assert spec.kept and "\n" not in spec.kept


def test_no_two_memories_are_taken_for_each_other() -> None:
    assert len(set(MEMORIES)) == len({m.to_json() for m in MEMORIES}) == len({str(m) for m in MEMORIES})
    assert len(set(map(name_of, MEMORIES))) == len(set(MEMORIES))


def test_every_kind_of_choice_is_in_the_table() -> None:
    """A choice that nobody put into a case is not tested."""
    used = json.dumps([m.to_json() for m in MEMORIES] + [s.to_json() for s in (*MODELS.values(), *NETWORKS.values())])
    defaults = {"Matrix", "L2", "Keep", "GD", "Everything", "Softmax", "Append", "MeanKey"}
    abstract = {name for name, kind in Declaration.kinds.items() if not dataclasses.is_dataclass(kind)}
    elsewhere = {"Constant", "Given"}
    for kind in set(Declaration.kinds) - defaults - abstract - elsewhere:
        module = Declaration.kinds[kind].__module__
        if not module.startswith("mnemos.") or module.startswith(("mnemos.train", "mnemos.tasks")):
            continue
        assert f'\\"kind\\": \\"{kind}\\"' in used, kind


@pytest.mark.parametrize("name", ENTRIES)
def test_zoo(name: str) -> None:
    """An entry names its paper, builds what its kind says without arguments, and is a model of any size by name unless
    it is a network."""
    entry = ENTRIES[name]
    assert entry.name == name and getattr(mn.zoo, name) is entry.build
    assert entry.title and 2014 <= entry.year <= 2030
    number = entry.arxiv.split(".")
    assert len(number) == 2 and all(part.isdigit() for part in number), "an arXiv number"
    assert entry.build.__module__ == f"mnemos.zoo.{name}", "one small file per system, named like it"
    spec = entry.build()
    assert isinstance(spec, KINDS[entry.kind])
    assert_is_a_value(spec)
    if isinstance(spec, NetworkDeclaration):
        assert sum(p.numel() for p in spec.build().parameters()) > 0
        with pytest.raises(InvalidValue, match=f"no language model but a network of its own; mn.zoo.{name}()"):
            mn.zoo.model(name)
        return
    model = mn.zoo.model(name, width=16, depth=3, heads=1, vocabulary=5)
    assert (model.width, model.depth, model.heads, model.vocabulary) == (16, 3, 1, 5)
    assert len(model.layers) == 3
    built = mn.LanguageModel(model)
    assert built.parameters_count() == sum(p.numel() for p in built.parameters())
    assert built.flops_per_token(64) > 0
    text = built.explain(length=64)
    assert f"{built.parameters_count():,} parameters" in text and "runs by" in text


def test_an_entry_is_what_it_says_that_it_returns() -> None:
    def untyped():
        return mn.zoo.gla()

    def a_memory() -> mn.Memory:
        return mn.Memory()

    for build in (untyped, a_memory):
        with pytest.raises(InvalidType, match=f"{build.__name__} must be annotated with what it returns"):
            published(title="A title", arxiv="0000.00000", year=2030)(build)  # pyright: ignore[reportArgumentType]
        assert build.__name__ not in mn.zoo.entries()


def test_zoo_lists_itself() -> None:
    assert list(ENTRIES) == sorted(ENTRIES)
    assert set(ENTRIES) <= set(dir(mn.zoo))
