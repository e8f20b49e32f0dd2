"""Law: every executor that accepts a memory computes what the reference computes - outputs, states, gradients."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CHUNK,
    HIGHER,
    KEEPING,
    LEARNING,
    LOG_LINEAR,
    ODD,
    SOME,
    Inputs,
    assert_close,
    assert_states_close,
    content,
    each,
    executors_for,
)
from torch import Tensor

import mnemos as mn
from mnemos.lowering import run_rows
from mnemos.memory import AnyMemory, reference
from mnemos.state import State


def floating(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors() if tensor.is_floating_point()}


def leaves_of(state: State) -> State:
    """The same state; its floating point tensors are leaves that want gradients."""
    return state._map_rows(lambda x: x.detach().clone().requires_grad_(x.is_floating_point()))


def outcome(
    inputs: Inputs, state: State, lengths: Tensor | None, plan: str
) -> tuple[Tensor, State, dict[str, Tensor | None]]:
    """Outputs, final state, and gradients of a random-looking loss by every input and entry of the first state."""
    out, after = run_rows(inputs.memory, inputs.q, inputs.k, inputs.v, inputs.controls, state, lengths, plan)
    if lengths is not None:  # outputs beyond a row's length mean nothing
        real = torch.arange(inputs.q.shape[1]) < lengths[:, None]
        out = torch.where(real[:, :, None, None], out, 0.0)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    loss = loss + sum(x.sin().sum() for x in content(after).values() if x.is_floating_point())
    wanted = {name: x for name, x in inputs.tensors.items() if x.requires_grad} | floating(state)
    wanted = {name: x for name, x in wanted.items() if x.is_leaf and x.requires_grad and x.numel()}
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return out, after, dict(zip(wanted, found, strict=True))


def assert_equals_reference(inputs: Inputs, state: State, lengths: Tensor | None = None) -> None:
    expected, last, gradients = outcome(inputs, state, lengths, "reference")
    for plan in executors_for(inputs.memory, inputs):
        out, after, found = outcome(inputs, state, lengths, plan)
        assert_close(out, expected, f"{plan}: outputs")
        assert_states_close(after, last, f"{plan}: state")
        assert set(found) == set(gradients)
        for name, gradient in gradients.items():
            by_plan = found[name]
            if gradient is None or by_plan is None:
                present = gradient if by_plan is None else by_plan
                assert present is None or not present.any(), f"{plan}: one of two gradients by {name} is missing"
                continue
            assert_close(by_plan, gradient, f"{plan}: gradient by {name}", 1e-7)


def length_for(memory: AnyMemory) -> int:
    """Prime, and long enough to cross chunks where algorithms have any for this memory."""
    long = isinstance(memory, mn.Memory) and memory.structure.linear_in_weights
    return 37 if long or memory in [*HIGHER, *LOG_LINEAR] else 11


@each([*LEARNING, *ODD])
def test_from_the_initial_weights(memory: mn.Memory) -> None:
    inputs = Inputs(memory, length_for(memory)).require_grad()
    assert_equals_reference(inputs, inputs.init())


@each(KEEPING)
@pytest.mark.parametrize("group", [1, 3])
def test_key_value_memories(memory: mn.KVMemory, group: int) -> None:
    inputs = Inputs(memory, 17, group=group).require_grad()
    assert_equals_reference(inputs, inputs.init())
    lived = leaves_of(inputs.lived())
    assert_equals_reference(inputs, lived)
    assert_equals_reference(inputs, lived, torch.tensor([6, 17]))


@each(SOME)
def test_from_the_middle_of_life_with_rows_of_several_lengths(memory: AnyMemory) -> None:
    inputs = Inputs(memory, length_for(memory), batch=3).require_grad()
    state = leaves_of(inputs.lived())
    assert_equals_reference(inputs, state)
    assert_equals_reference(inputs, state, torch.tensor([CHUNK + 1, inputs.q.shape[1], 1]))


@each(SOME)
@pytest.mark.parametrize("time", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 15, 16, 17])
def test_lengths_around_the_chunk(memory: AnyMemory, time: int) -> None:
    inputs = Inputs(memory, time).require_grad()
    assert_equals_reference(inputs, leaves_of(inputs.lived()))


@each([m for m in SOME if length_for(m) == 37])
@pytest.mark.parametrize("time", [31, 32, 33, 67])
def test_lengths_around_the_chunks_of_matrix_algorithms(memory: AnyMemory, time: int) -> None:
    inputs = Inputs(memory, time).require_grad()
    assert_equals_reference(inputs, leaves_of(inputs.lived()))


@each(SOME)
def test_nothing_in_nothing_out(memory: AnyMemory) -> None:
    """No tokens, or no rows: empty outputs, and the state as it was."""
    for plan in (None, "reference", *executors_for(memory, Inputs(memory, 3))):
        inputs = Inputs(memory, 0)
        state = inputs.lived()
        out, after = mn.run(memory, *inputs.cut(0, 0), state=state, plan=plan)
        assert out.shape == (2, 0, 2, inputs.value_dim)
        assert_states_close(after, state)

        nobody = Inputs(memory, 5, batch=0)
        out, after = mn.run(memory, *nobody.cut(0, 5), weights=nobody.weights, plan=plan)
        assert out.shape == (0, 5, 2, nobody.value_dim)
        assert after.batch == 0


@each([*LEARNING, *ODD, *KEEPING, *HIGHER])
def test_the_step_is_the_reference(memory: AnyMemory) -> None:
    """The fast step, with gradients on, and in place with gradients off."""
    inputs = Inputs(memory, CHUNK + 2)
    start = inputs.lived()
    expected, last = reference.run(memory, inputs.q, inputs.k, inputs.v, inputs.controls, start)
    for grad in (True, False):
        state, outputs = start.clone(), []
        with torch.set_grad_enabled(grad):
            for t in range(inputs.q.shape[1]):
                q, k, v, controls = inputs.at(t)
                out, state = memory.step(state, q, k, v, controls)
                outputs.append(out)
        assert_close(torch.stack(outputs, 1), expected, f"step, gradients {grad}")
        assert_states_close(state, last)


@each(SOME)
def test_write_and_read_are_the_step(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 3)
    state = inputs.lived()
    for t in range(3):
        q, k, v, controls = inputs.at(t)
        stepped, after = memory.step(state, q, k, v, controls)
        written = memory.write(state, k, v, controls)
        before_first = isinstance(memory, mn.Memory) and memory.read_timing == "before"
        assert_close(memory.read(state if before_first else written, q), stepped, "read")
        assert_states_close(written, after)
        state = after


@each([m for m in SOME if isinstance(m, mn.Memory)])
def test_reading_several_queries_at_once(memory: mn.Memory) -> None:
    inputs = Inputs(memory, 5)
    state = inputs.lived()
    together = memory.read(state, inputs.q)
    one_by_one = torch.stack([memory.read(state, inputs.q[:, t]) for t in range(5)], 1)
    assert_close(together, one_by_one, "several queries")


@each(SOME)
def test_the_plan_taken_is_one_that_accepts(memory: AnyMemory) -> None:
    """Lowering takes the first executor that does not decline, and says why each other one was not taken."""
    from mnemos.execute import Request
    from mnemos.lowering import candidates, lower

    inputs = Inputs(memory, 40)
    plan = lower(memory, Request.of(inputs.q, inputs.k, inputs.v, True))
    assert plan.executor.name == executors_for(memory, inputs)[0]
    assert [name for name, _ in plan.declined] == [e.name for e in candidates(memory) if e.name != plan.executor.name]
    text = plan.explain()
    assert plan.executor.name in text and all(reason in text for _, reason in plan.declined)
    assert plan.flops > 0
    _, state = mn.run(memory, inputs.q, inputs.k, inputs.v, inputs.controls, inputs.weights)
    assert plan.state_bytes == state.nbytes
