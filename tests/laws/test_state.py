"""Law: a state is a value. It can be counted, branched, regrouped, reset, saved, and is refused where it is foreign."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import (
    HEADS,
    MODELS,
    SOME,
    WIDTH,
    Inputs,
    assert_close,
    assert_states_close,
    content,
    each,
    each_model,
    make_model,
    model_spec,
    some_tokens,
)

import mnemos as mn
from mnemos.errors import StateError
from mnemos.layers import ChunkRecall
from mnemos.memory import AnyMemory, CoreContext, Declaration, EpisodicMemory, Retain
from mnemos.state import State


def bitwise_equal(one: State, other: State) -> bool:
    a, b = dict(one.tensors()), dict(other.tensors())
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@each(SOME)
def test_value(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 6, batch=3)
    state = inputs.lived()
    assert state.batch == 3 and state.device == torch.device("cpu")
    assert state.nbytes == sum(x.numel() * x.element_size() for _, x in state.tensors()) > 0
    for row in range(3):
        alone = state.select(torch.tensor([row]))
        assert alone.batch == 1 and alone.nbytes * 3 == state.nbytes
    order = torch.tensor([2, 0, 2, 1])
    assert bitwise_equal(state.select(order).select(torch.tensor([1, 3, 0])), state)
    assert bitwise_equal(state.clone(), state) and bitwise_equal(state.to("cpu"), state)
    assert bitwise_equal(state.detach(), state)
    text = repr(state)
    assert text.startswith("State(") and "tensor(" not in text
    assert state.select(torch.tensor([], dtype=torch.int64)).batch == 0


@each(SOME)
def test_reset_rows_start_over(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 6, batch=3)
    rows = torch.tensor([True, False, True])
    state = inputs.lived()
    back = state.reset(rows)
    fresh = inputs.init()
    for row in range(3):
        one = torch.tensor([row])
        assert_states_close(back.select(one), (fresh if rows[row] else state).select(one), tolerance=0.0)
    out, after = mn.run(memory, *inputs.cut(0, 6), state=back)
    anew, _ = mn.run(memory, *inputs.cut(0, 6), weights=inputs.weights)
    on, _ = mn.run(memory, *inputs.cut(0, 6), state=state)
    assert_close(out, torch.where(rows[:, None, None, None], anew, on), "after reset")
    assert_states_close(after.reset(torch.ones(3, dtype=torch.bool)), fresh, tolerance=0.0)


@each(SOME)
def test_steps_spend_their_state_with_gradients_off_only(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 2)
    _, k, v, controls = inputs.at(0)
    controls = {c.name: controls[c.name] for c in memory.write_controls}
    grows = keeps_everything(memory) and not isinstance(memory, CoreContext)  # whose window is a ring
    for grad in (True, False):
        state = inputs.lived()
        held = {name: x.clone() for name, x in content(state).items()}
        with torch.set_grad_enabled(grad):
            after = memory.write(state, k, v, controls)
        assert not after.spent
        assert state.spent == (not grad and not grows)
        if not state.spent:
            now = content(state)
            assert all(torch.equal(now[name], x) for name, x in held.items())
        elif isinstance(memory, mn.Memory) and memory.retention.scaling in ("none", "head", "channel"):
            # The successor took the memory over.
            name = next(iter(state.fresh))
            assert after[name].data_ptr() == state.entries[name].data_ptr()  # pyright: ignore


@each(SOME)
def test_saved_states_of_memories(memory: AnyMemory, tmp_path: Path) -> None:
    inputs = Inputs(memory, 9)
    state = inputs.lived()
    path = state.save(tmp_path / "state.safetensors")
    again = mn.from_json(memory.to_json())
    back = mn.load_state(path, for_=again)
    assert bitwise_equal(back, state) and back.owner == state.owner
    one, last = mn.run(memory, *inputs.cut(0, 9), state=state)
    other, end = mn.run(again, *inputs.cut(0, 9), state=back)
    assert torch.equal(one, other) and bitwise_equal(last, end)
    rows = torch.tensor([False, True])
    assert bitwise_equal(mn.load_state(path).reset(rows), state.reset(rows))


@each_model()
def test_saved_states_of_models(spec: mn.ModelSpec, tmp_path: Path) -> None:
    """A model built anew from the spec's JSON and the weights goes on from the file, to the last bit."""
    model, tokens = make_model(spec), some_tokens(2, 18)
    _, state = model(tokens[:, :9])
    path = state.save(tmp_path / "state.safetensors")
    expected, last = model(tokens[:, 9:], state)

    fresh = mn.LanguageModel(mn.from_json(spec.to_json())).double()
    fresh.load_state_dict(model.state_dict())
    back = mn.load_state(path, for_=fresh)
    assert bitwise_equal(back, state)
    logits, end = fresh(tokens[:, 9:], back)
    assert torch.equal(logits, expected) and bitwise_equal(end, last)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@each_model()
def test_selected_rows_of_models_go_on(spec: mn.ModelSpec) -> None:
    """Beam search: rows repeated and in another order; episodes that end."""
    model = make_model(spec)
    _, state = model(some_tokens(3, 9))
    rows = torch.tensor([2, 0, 0])
    tokens = some_tokens(3, 6)
    expected = torch.empty(3, 6, spec.vocabulary, dtype=torch.float64)
    for i, row in enumerate(rows.tolist()):
        expected[i] = model(tokens[i : i + 1], state.select(torch.tensor([row])))[0][0]
    assert_close(model(tokens, state.select(rows))[0], expected, "selected rows")

    ended = torch.tensor([False, True, False])
    logits, _ = model(tokens, state.reset(ended))
    on, anew = model(tokens, state)[0], model(tokens)[0]
    assert_close(logits, torch.where(ended[:, None, None], anew, on), "reset rows")


@each_model()
def test_spent_states_of_models(spec: mn.ModelSpec) -> None:
    """With gradients off, a single token spends the old state, or leaves it as it was; a clone is a branch."""
    model, tokens = make_model(spec), some_tokens(2, 12)
    whole, _ = model(tokens)
    with torch.no_grad():
        _, state = model(tokens[:, :8])
        branch, held = state.clone(), state.clone()
        after = state
        for t in range(8, 12):
            before = after
            logits, after = model(tokens[:, t : t + 1], before)
            assert_close(logits, whole[:, t : t + 1], "streamed")
            assert before is not after
        try:
            assert bitwise_equal(state, held)
        except StateError as error:
            assert "already moved on" in str(error)
            with pytest.raises(StateError, match="already moved on"):
                model(tokens[:, 8:9], state)
        assert bitwise_equal(branch, held)
        assert_close(model(tokens[:, 8:], branch)[0], whole[:, 8:], "the branch")


def keeps_everything(declared: Any) -> bool:
    """Whether a declaration holds a memory of entries without a bound."""
    if isinstance(declared, Retain | EpisodicMemory):
        return declared.capacity is None
    if isinstance(declared, ChunkRecall):
        return declared.keep is None
    if isinstance(declared, CoreContext):
        return True
    if isinstance(declared, tuple):
        return any(keeps_everything(part) for part in declared)
    if not isinstance(declared, Declaration):
        return False
    assert dataclasses.is_dataclass(declared)
    return any(keeps_everything(getattr(declared, field.name)) for field in dataclasses.fields(declared))


UNSEEN = ("rat", "dual_attention", "hopfield_pooling-steps")  # keep everything without a memory in their declaration
GROWING = [name for name, spec in MODELS.items() if name.startswith(UNSEEN) or keeps_everything(spec)]
CONSTANT = [name for name in MODELS if name not in GROWING]


@each_model(CONSTANT)
def test_the_state_of_streaming_models_stays_as_large_as_it_is(spec: mn.ModelSpec) -> None:
    model = make_model(spec)
    sizes = {model(some_tokens(1, time))[1].nbytes for time in (0, 1, 9, 40)}
    assert sizes == {model.init_state(1).nbytes}
    assert model.float().state_bytes() == model.state_bytes(40)


def test_the_state_of_a_transformer_grows_by_an_entry_a_token() -> None:
    model = make_model(MODELS["transformer"])
    at = {time: model(some_tokens(1, time))[1].nbytes for time in (0, 1, 10)}
    assert at[10] - at[0] == 10 * (at[1] - at[0]) > 0
    assert make_model(MODELS["transformer-grouped"])(some_tokens(1, 10))[1].nbytes < at[10]


@each_model()
def test_states_of_layers_are_refused_elsewhere(spec: mn.ModelSpec) -> None:
    layer = spec.pattern[0].build(WIDTH, HEADS)
    other = spec.pattern[0].build(WIDTH, 2 * HEADS)
    x = torch.randn(2, 3, WIDTH)
    _, state = layer(x)
    with pytest.raises(StateError, match="another owner"):
        other(x, state)
    with pytest.raises(StateError, match="has 2 rows and the input 1"):
        layer(x[:1], state)


@each_model()
def test_fast_weights_stay_float32_in_a_bfloat16_model(spec: mn.ModelSpec) -> None:
    """Weights of a fast memory, their momentum and logarithms of sums are float32 whatever the model's dtype."""
    model = mn.LanguageModel(spec).bfloat16()
    logits, state = model(some_tokens(2, 13))
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits).all()
    for name, tensor in state.tensors():
        last = name.rsplit(".", 1)[-1]
        if not tensor.is_floating_point():
            continue
        sums = name.endswith((".decay", ".log_sum", ".running")) or "held." in name
        entry = last in ("conv", "keys", "values", "address", "segment") and ".window." not in name
        if sums or ("memory." in name and not entry):
            assert tensor.dtype == torch.float32, name
        else:
            assert tensor.dtype == torch.bfloat16, name


def test_a_model_spec_with_bare_memories_is_one_with_layers() -> None:
    memory = mn.Memory()
    assert model_spec([memory]) == model_spec([mn.LayerSpec(memory)])
