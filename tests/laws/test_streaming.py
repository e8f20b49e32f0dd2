"""Law: cutting a sequence anywhere and streaming the pieces gives the numbers of the whole."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import (
    CHUNK,
    HEADS,
    MEMORIES,
    MODELS,
    SMOOTH,
    SOME,
    WIDTH,
    Inputs,
    assert_close,
    assert_states_close,
    content,
    each,
    each_model,
    executors_for,
    make_model,
    random_cuts,
    some_tokens,
)
from torch import Tensor

import mnemos as mn
from mnemos.memory import AnyMemory
from mnemos.state import State


def pairs(cuts: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(cuts))


@each(MEMORIES)
def test_memory(memory: AnyMemory) -> None:
    time = 37 if isinstance(memory, mn.Memory) and memory.structure.linear_in_weights else 19
    inputs = Inputs(memory, time)
    with torch.no_grad():
        whole, last = mn.run(memory, *inputs.cut(0, time), weights=inputs.weights)
    for grad in (True, False):  # with gradients off, single tokens are taken in place
        state, outputs = inputs.init(), []
        with torch.set_grad_enabled(grad):
            for start, end in pairs(random_cuts(time)):
                out, state = mn.run(memory, *inputs.cut(start, end), state=state)
                outputs.append(out)
        assert_close(torch.cat(outputs, 1), whole, f"streamed, gradients {grad}")
        assert_states_close(state, last)


@each(SOME)
def test_executors_take_over_from_each_other(memory: AnyMemory) -> None:
    """Every executor goes on from the state that any other left."""
    inputs = Inputs(memory, 23)
    whole, last = mn.run(memory, *inputs.cut(0, 23), weights=inputs.weights, plan="reference")
    plans = [*executors_for(memory, inputs), "reference"]
    for first in plans:
        for second in plans:
            one, state = mn.run(memory, *inputs.cut(0, 10), weights=inputs.weights, plan=first)
            two, state = mn.run(memory, *inputs.cut(10, 23), state=state, plan=second)
            assert_close(torch.cat([one, two], 1), whole, f"{first}, then {second}")
            assert_states_close(state, last)


@each(SOME)
def test_a_passed_state_is_left_alone_or_spent(memory: AnyMemory) -> None:
    """Whatever is done with its successors, a state that may still be used holds what it held."""
    inputs = Inputs(memory, 12)
    with torch.no_grad():
        for plan in (None, *executors_for(memory, inputs)):
            for start in (inputs.init(), inputs.lived()):
                kept: list[tuple[State, dict[str, Tensor]]] = []
                state = start
                for begin, end in ((0, CHUNK), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 9), (9, 12)):
                    kept.append((state, {name: x.clone() for name, x in content(state).items()}))
                    _, state = mn.run(memory, *inputs.cut(begin, end), state=state, plan=plan)
                    assert end - begin == 1 or not kept[-1][0].spent, "only single tokens are taken in place"
                for old, held in kept:
                    if not old.spent:
                        now = content(old)
                        assert all(torch.equal(now[name], x) for name, x in held.items())


@each(SOME)
@pytest.mark.parametrize("derive", ["clone", "detach", "to", "select", "reset"])
def test_a_derived_state_goes_its_own_way(memory: AnyMemory, derive: str) -> None:
    """Streaming on from a state's copy does not reach the state itself."""
    inputs = Inputs(memory, 6)
    start = inputs.lived()
    held = {name: x.clone() for name, x in content(start).items()}
    copy = {
        "clone": start.clone,
        "detach": start.detach,
        "to": lambda: start.to("cpu"),
        "select": lambda: start.select(torch.arange(2)),
        "reset": lambda: start.reset(torch.zeros(2, dtype=torch.bool)),
    }[derive]()
    with torch.no_grad():
        for t in range(6):
            _, copy = mn.run(memory, *inputs.cut(t, t + 1), state=copy)
    now = content(start)
    assert all(torch.equal(now[name], x) for name, x in held.items())


@each_model()
def test_layer(spec: mn.ModelSpec) -> None:
    layer = spec.pattern[0].build(WIDTH, HEADS).double()
    x = torch.randn(2, 29, WIDTH, dtype=torch.float64)
    whole, last = layer(x)
    assert whole.shape == x.shape
    for grad in (True, False):
        state, outputs = layer.init_state(2), []
        with torch.set_grad_enabled(grad):
            for start, end in pairs(random_cuts(29)):
                y, state = layer(x[:, start:end], state)
                outputs.append(y)
        assert_close(torch.cat(outputs, 1), whole, f"streamed, gradients {grad}")
        assert_states_close(state, last)


@each_model()
def test_model(spec: mn.ModelSpec) -> None:
    model, tokens = make_model(spec), some_tokens(2, 41)
    whole, last = model(tokens)
    for grad in (True, False):
        state, outputs = None, []
        with torch.set_grad_enabled(grad):
            for start, end in pairs(random_cuts(41)):
                logits, state = model(tokens[:, start:end], state)
                outputs.append(logits)
        assert_close(torch.cat(outputs, 1), whole, f"streamed, gradients {grad}")
        assert state is not None
        assert_states_close(state, last)


@each_model()
@pytest.mark.parametrize("batch", [1, 2])
def test_model_token_by_token_from_init_state(spec: mn.ModelSpec, batch: int) -> None:
    """Streaming in place touches neither the learned initial memory nor anything else that was learned."""
    model, tokens = make_model(spec), some_tokens(batch, 21)
    learned = {name: x.clone() for name, x in model.state_dict().items()}
    whole, last = model(tokens)
    with torch.no_grad():
        state, outputs = model.init_state(batch), []
        for t in range(21):
            logits, state = model(tokens[:, t : t + 1], state)
            outputs.append(logits)
    assert_close(torch.cat(outputs, 1), whole, "token by token")
    assert_states_close(state, last)
    assert all(torch.equal(x, learned[name]) for name, x in model.state_dict().items())
    assert_states_close(state.reset(torch.ones(batch, dtype=torch.bool)), model.init_state(batch), tolerance=0.0)


@each_model()
def test_no_rows_and_no_tokens(spec: mn.ModelSpec) -> None:
    model = make_model(spec)
    logits, state = model(some_tokens(3, 0))
    assert logits.shape == (3, 0, spec.vocabulary) and state.batch == 3
    tokens = some_tokens(3, 5)
    again, after = model(tokens, state)
    assert_close(again, model(tokens)[0], "after nothing")
    assert_states_close(model(some_tokens(3, 0), after)[1], after)
    for time in (0, 1, 5):
        logits, state = model(some_tokens(0, time))
        assert logits.shape == (0, time, spec.vocabulary) and state.batch == 0
    layer = model.layers()[0]
    x = torch.randn(0, 4, WIDTH, dtype=torch.float64)
    assert layer(x)[0].shape == (0, 4, WIDTH)
    assert layer(torch.randn(2, 0, WIDTH, dtype=torch.float64))[0].shape == (2, 0, WIDTH)


@each(SMOOTH)
def test_gradients_reach_back_through_an_attached_state_only(memory: AnyMemory) -> None:
    """Truncated back-propagation: detaching changes no number, and cuts the gradient exactly there."""
    inputs = Inputs(memory, 14).require_grad()
    early = (inputs.k, inputs.v)

    def late_loss(detach: bool) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        _, state = mn.run(memory, *inputs.cut(0, 9), weights=inputs.weights)
        out, _ = mn.run(memory, *inputs.cut(9, 14), state=state.detach() if detach else state)
        return out, torch.autograd.grad(out.square().sum(), early, allow_unused=True)

    whole, _ = mn.run(memory, *inputs.cut(0, 14), weights=inputs.weights)
    full = torch.autograd.grad(whole[:, 9:].square().sum(), early, allow_unused=True)
    attached, reaching = late_loss(detach=False)
    detached, cut = late_loss(detach=True)
    assert torch.equal(attached, detached)
    assert_close(attached, whole[:, 9:], "outputs")
    reached = False
    for found, expected, short in zip(reaching, full, cut, strict=True):
        if found is None or expected is None:
            assert found is None or not found.any()
            assert expected is None or not expected.any()
            continue
        assert_close(found, expected, "gradient through the state", 1e-8)
        assert short is None or not short[:, :9].any()
        reached |= bool(found[:, :9].any())
    assert reached or (isinstance(memory, mn.KVMemory) and memory.retain.capacity == 1)


SEGMENTS = ["transformer_xl", "lamemo", "rmt", "armt", "memoria"]


@each_model(
    ["titans_lmm", "gated_deltanet", "titans_mac", "transformer", "sliding_window", "linear_attention", *SEGMENTS]
)
def test_truncated_back_propagation_of_a_model(spec: mn.ModelSpec) -> None:
    model, tokens = make_model(spec), some_tokens(2, 20)
    whole, _ = model(tokens)
    parameters = list(model.parameters())
    full = torch.autograd.grad(whole.square().mean(), parameters)

    first, state = model(tokens[:, :11])
    second, _ = model(tokens[:, 11:], state)
    parts = torch.cat([first, second], 1)
    for one, other in zip(torch.autograd.grad(parts.square().mean(), parameters), full, strict=True):
        assert_close(one, other, "gradient through the state", 1e-8)

    _, state = model(tokens[:, :11])
    second, _ = model(tokens[:, 11:], state.detach())
    assert_close(second, whole[:, 11:], "after a detached state")
    assert all(not tensor.requires_grad for _, tensor in state.detach().tensors())
    assert any(tensor.requires_grad for _, tensor in state.tensors())


def test_the_pieces_of_a_rope_stream_far_out_are_exact() -> None:
    """Rotary angles at positions beyond what float32 resolves."""
    memory = mn.KVMemory(retain=mn.Window(4), read=mn.Softmax(rotary=10000.0))
    inputs = Inputs(memory, 8)
    near, _ = mn.run(memory, *inputs.cut(0, 8))
    state = inputs.init()
    far = state.successor(
        keys=state["keys"], values=state["values"], slot=state["slot"], count=state["count"] + 300_000
    )
    out, _ = mn.run(memory, *inputs.cut(0, 8), state=far)
    assert_close(out, near, "shifted by 300,000 positions", 1e-8)


@pytest.mark.parametrize("rows", [[1], [0, 0], [1, 0, 1]])
def test_rows_at_different_places_go_on_together(rows: list[int]) -> None:
    """Rows that stand at different places of a chunk, of a window and of a segment."""
    specs = [mn.zoo.titans_mac(segment=8), mn.zoo.titans_mag(window=8, chunk=4), mn.zoo.transformer()]
    specs = [spec.replace(width=WIDTH, depth=2, heads=HEADS, vocabulary=11) for spec in specs]
    for spec in [*specs, *(MODELS[name] for name in SEGMENTS)]:
        model = make_model(spec)
        tokens = some_tokens(2, 13)
        mask = torch.ones(2, 13, dtype=torch.bool)
        mask[0, 6:] = False
        _, state = model(tokens, mask=mask)
        chosen = torch.tensor(rows)
        more = some_tokens(len(rows), 11)
        logits, after = model(more, state.select(chosen))
        for i, row in enumerate(rows):
            alone, end = model(more[i : i + 1], state.select(torch.tensor([row])))
            assert_close(logits[i : i + 1], alone, f"row {row}")
            assert_states_close(after.select(torch.tensor([i])), end)
