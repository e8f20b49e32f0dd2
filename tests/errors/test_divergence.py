"""Numbers that are no longer finite: whoever asks is told where they first appeared; whoever does not pays nothing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import Diverged
from mnemos.layers import AsGate, Layer, LayerSpec, Sigmoid, Unit
from mnemos.lowering import divergence

BATCH, TIME, HEADS, DIM = 2, 40, 3, 4
DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD())


def inputs(row: int, head: int, since: int, rate: float) -> dict[str, Any]:
    """Mild inputs, but one head of one row takes steps of `rate` on keys of length 2 from token `since` on."""
    q, k, v = (torch.randn(BATCH, TIME, HEADS, DIM) for _ in range(3))
    k = torch.nn.functional.normalize(k, dim=-1)
    k[row, since:, head] *= 2
    rates = torch.full((BATCH, TIME, HEADS), 0.5)
    rates[row, since:, head] = rate
    return {"q": q, "k": k, "v": v, "controls": {"rate": rates}}


def first_overflow(k: Tensor, v: Tensor, rates: Tensor) -> int | None:
    """The literal recurrence of one head in float32, without the library."""
    state = np.zeros((DIM, DIM), np.float32)
    with np.errstate(all="ignore"):
        for t in range(len(k)):
            key, value = k[t].numpy(), v[t].numpy()
            state = state - np.float32(rates[t]) * np.outer(state @ key - value, key)
            if not np.isfinite(state).all():
                return t
    return None


@pytest.mark.parametrize(("row", "head", "since", "rate"), [(0, 1, 4, 3e3), (1, 2, 20, 1e5), (1, 0, 0, 1e8)])
@pytest.mark.parametrize("plan", [None, "loop"])
def test_a_rate_that_must_diverge_is_caught_where_it_does(
    row: int, head: int, since: int, rate: float, plan: str | None
) -> None:
    given = inputs(row, head, since, rate)
    one = (given["k"][row, :, head], given["v"][row, :, head], given["controls"]["rate"][row, :, head])
    token = first_overflow(*one)
    assert token is not None
    assert since < token < TIME - 1
    with pytest.raises(Diverged) as caught:
        mn.run(DELTA, **given, plan=plan, checks=True)
    error = caught.value
    assert (error.row, error.heads, error.layer) == (row, (head,), None)
    # The chunked form multiplies in another order, so that it may pass the largest number a token earlier or later.
    assert error.token == token if plan == "loop" else abs(error.token - token) <= 1  # pyright: ignore[reportOptionalOperand]
    text = str(error)
    assert text.startswith(
        f"head {head}, token {error.token} of row {row}: the memory (Matrix + L2 + Keep) is no longer"
    )
    assert f"a key of length 2 (the longest so far: 2), rate {rate:.3g} (the highest so far: {rate:.3g})" in text
    assert f"the highest rate times the longest key's square is {4 * rate:.3g}" in text
    assert "Use keys of length 1, LayerSpec(keys=Unit()); or a smaller rate, such as Sigmoid(high=1)." in text


def test_a_rate_of_three_on_unnormalised_keys() -> None:
    """Far too large a step for all of them: no head is spared, the first to overflow is named."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(BATCH, 200, HEADS, DIM) for _ in range(3))
    memory = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=3.0))
    expected = {}
    for row in range(BATCH):
        for head in range(HEADS):
            token = first_overflow(k[row, :, head], v[row, :, head], torch.full((200,), 3.0))
            assert token is not None
            expected.setdefault(token, []).append((row, head))
    first = min(expected)
    with pytest.raises(Diverged, match=r"a key of length .*, rate 3 \(the highest so far: 3\)") as caught:
        mn.run(memory, q, k, v, plan="loop", checks=True)
    assert caught.value.token == first
    assert [(caught.value.row, head) for head in caught.value.heads] == expected[first]


def test_documents_and_padding_are_counted_as_the_caller_counts_them() -> None:
    given = inputs(1, 2, 0, 3e3)
    mask = torch.ones(BATCH, TIME, dtype=torch.bool)
    mask[1, 2:5] = False
    reset = torch.zeros(BATCH, TIME, dtype=torch.bool)
    reset[1, 7] = reset[0, 30] = True  # before it can overflow
    controls = given["controls"]["rate"]
    token = first_overflow(given["k"][1, 7:, 2], given["v"][1, 7:, 2], controls[1, 7:, 2])
    assert token is not None
    with pytest.raises(Diverged) as caught:
        mn.run(DELTA, **given, plan="loop", reset=reset, mask=mask, checks=True)
    assert (caught.value.row, caught.value.token, caught.value.heads) == (1, token + 7, (2,))


def test_the_state_that_was_passed_in_counts_and_is_left_alone() -> None:
    given = inputs(0, 1, 0, 3e3)
    whole = first_overflow(given["k"][0, :, 1], given["v"][0, :, 1], given["controls"]["rate"][0, :, 1])
    assert whole is not None

    def part(begin: int, end: int) -> dict[str, Any]:
        pieces = {name: given[name][:, begin:end] for name in ("q", "k", "v")}
        return {**pieces, "controls": {"rate": given["controls"]["rate"][:, begin:end]}}

    _, state = mn.run(DELTA, **part(0, 5), plan="loop", checks=True)
    before = state.clone()
    with pytest.raises(Diverged) as caught, torch.no_grad():
        mn.run(DELTA, **part(5, TIME), plan="loop", state=state, checks=True)
    assert caught.value.token == whole - 5
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(state.tensors(), before.tensors(), strict=True))


def quiet(layer: Any) -> None:
    """The layer adds nothing to what the next one sees."""
    for name, weight in layer.named_parameters():
        if name.endswith("out.weight"):
            torch.nn.init.zeros_(weight)


def only_for(token: int, model: mn.LanguageModel, memory: Any, head: int, length: float) -> None:
    """Let one head of one layer make keys of this length for this token alone; embeddings are unit vectors."""
    width, dim = model.spec.width, memory.key_dim
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[:, 0] = 1
        model.embedding.weight[token] = 0
        model.embedding.weight[token, 1] = 1
        keys = memory.project.weight[memory.heads * dim + head * dim]
        keys[1] = length / width**0.5  # the norm before the layer gives that channel this size


def tokens_with(token: int, row: int, places: list[int], rows: int = 3, length: int = 24) -> Tensor:
    tokens = torch.randint(0, 9, (rows, length))
    tokens[row, places] = token
    return tokens


@pytest.mark.parametrize(("layer", "head", "place"), [(0, 0, 3), (1, 1, 11), (2, 1, 1), (2, 0, 23)])
@pytest.mark.parametrize("gradients", [True, False])
def test_layer_head_and_token_of_a_model_are_named(layer: int, head: int, place: int, gradients: bool) -> None:
    spec = mn.ModelSpec((LayerSpec(DELTA),), width=8, depth=3, heads=2, vocabulary=12, ffn=0)
    model = mn.LanguageModel(spec)
    for block in model.blocks:
        quiet(block)
    only_for(11, model, model.layers()[layer], head, 1e25)  # its square is beyond float32
    tokens = tokens_with(11, row=1, places=[place, *range(place + 2, 24, 3)])
    with pytest.raises(Diverged) as caught, torch.set_grad_enabled(gradients):
        model(tokens, checks=True)
    error = caught.value
    assert (error.layer, error.heads, error.row, error.token) == (layer, (head,), 1, place)
    assert re.match(
        rf"layer {layer}, head {head}, token {place} of row 1: the memory .* a key of length 1e\+25", str(error)
    )
    logits, _ = model(tokens[:, :place], checks=True)  # nothing is wrong before it
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["titans_mag", "titans_mac"])
def test_memories_inside_other_layers_are_found(name: str) -> None:
    """Behind a gate, or fed by attention segment by segment."""
    model = mn.LanguageModel(mn.zoo.model(name, width=8, depth=2, heads=2, vocabulary=12))
    tokens = tokens_with(11, row=2, places=[17], length=40)
    with torch.no_grad():
        logits, _ = model(tokens, checks=True)
    plain, _ = model(tokens)
    assert torch.equal(logits, plain)
    memory = next(m for m in model.layers()[1].modules() if isinstance(m, mn.MemoryLayer) and len(m.initial))
    with torch.no_grad():
        memory.project.weight[-memory.value_dim :] *= 1e30  # the last head's values
    with pytest.raises(Diverged, match=r"the memory \(MLP \+ L2 \+ Decay \+ momentum\)") as caught:
        model(tokens, checks=True)
    assert (caught.value.layer, caught.value.token, caught.value.heads) == (1, 0, (1,))


def test_a_gated_memory_diverges_at_its_token() -> None:
    spec = AsGate(layer=mn.zoo.sliding_window(8), gate=LayerSpec(DELTA))
    model = mn.LanguageModel(mn.ModelSpec((spec,), width=8, depth=2, heads=2, vocabulary=12, ffn=0))
    for block in model.blocks:
        quiet(block)
    only_for(11, model, model.layers()[1].gate, 1, 1e25)
    with pytest.raises(Diverged) as caught:
        model(tokens_with(11, row=0, places=[9, 15]), checks=True)
    assert (caught.value.layer, caught.value.heads, caught.value.row, caught.value.token) == (1, (1,), 0, 9)


def test_what_is_not_a_memory_s_fault_is_said_to_be_none() -> None:
    model = mn.LanguageModel(mn.ModelSpec((LayerSpec(DELTA, keys=Unit()),), width=8, depth=2, heads=2, vocabulary=12))
    with torch.no_grad():
        model.blocks[1].ffn.up.weight.fill_(1e30)  # pyright: ignore
    with pytest.raises(Diverged, match=r"layer 1, token 0 of row 0: .* it was no memory that made them so") as caught:
        model(tokens_with(11, row=0, places=[9]), checks=True)
    assert (caught.value.layer, caught.value.token, caught.value.heads) == (1, 0, ())
    with torch.no_grad():
        model.blocks[0].ffn.up.weight[3, 2] = float("nan")  # pyright: ignore
    with pytest.raises(Diverged, match=r"weights of the model are not finite themselves: blocks\.0\.ffn\.up\.weight\."):
        model(tokens_with(11, row=0, places=[9]), checks=True)


def test_a_layer_by_itself_is_checked_too() -> None:
    layer = mn.MemoryLayer(LayerSpec(DELTA, controls=(("rate", Sigmoid(high=1e6)),)), width=8, heads=2)
    x = torch.randn(2, 60, 8)
    assert not torch.isfinite(layer(x)[0]).all()
    with pytest.raises(Diverged, match=r"^heads? [01](, 1)?, token \d+ of row [01]: the memory"):
        layer(x, checks=True)
    assert torch.isfinite(layer(1e-9 * x, checks=True)[0]).all()


def test_each_remedy_is_offered_where_it_applies() -> None:
    def said(memory: mn.Memory, key: float, rate: float) -> str:
        return divergence._remedy(memory, key, torch.tensor([rate]))

    deep = mn.Memory(mn.MLP(depth=2, norm=False), mn.L2(), mn.Keep(), mn.GD(anchor=mn.Chunk(4)))
    assert said(deep, 1.0, 0.2) == "Use MLP(norm=True)."
    assert said(deep, 1.0, 0.5) == "Use a smaller rate, such as Sigmoid(high=0.25); or MLP(norm=True)."
    assert "Use keys of length 1, LayerSpec(keys=Unit())." in said(DELTA, 3.0, 0.5)
    assert "Use smaller rates, or a retention that forgets faster." in said(DELTA, 1.0, 1.0)


def test_checks_cost_nothing_where_they_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the checks is entered, and not one operation more is run than the plain call needs."""

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("the checks were entered")

    for name in ("_finite", "_finite_state", "_search", "checked_over_documents"):
        monkeypatch.setattr(divergence, name, never)
    monkeypatch.setattr(mn.LanguageModel, "_checked", never)
    given = inputs(0, 1, 4, 3e3)
    out, _ = mn.run(DELTA, **given)
    assert not torch.isfinite(out).all()  # goes through as it always did
    model = mn.LanguageModel(mn.ModelSpec((mn.zoo.titans_lmm(),), width=8, depth=2, heads=2))
    model(torch.randint(0, 9, (2, 20)))
    layer: Layer = model.layers()[0]
    layer(torch.randn(2, 20, 8))
    with pytest.raises(AssertionError, match="the checks were entered"):
        model(torch.randint(0, 9, (2, 20)), checks=True)
