"""Law: every executor that accepts a memory computes what the reference computes - outputs, states, gradients."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CHUNK,
    CLUSTERS,
    CORE,
    CORES,
    EPISODIC,
    HIGHER,
    KEEPING,
    LEARNING,
    LOG_LINEAR,
    ODD,
    SOME,
    Inputs,
    assert_close,
    assert_equals_reference,
    assert_states_close,
    each,
    executors_for,
    leaves_of,
)

import mnemos as mn
from mnemos.lowering import run_rows
from mnemos.memory import Addressed, AnyMemory, CoreContext, EpisodicMemory, Landmark, Policy, reference


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


@each(EPISODIC)
@pytest.mark.parametrize(("few", "group"), [(0, 1), (1000, 1), (0, 2), (1000, 2)])
def test_memories_in_episodes(memory: EpisodicMemory, few: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By lists of what is found, and by all entries."""
    monkeypatch.setattr("mnemos.memory.episodic.FEW", few)
    monkeypatch.setattr("mnemos.execute.episode_blocks.BLOCK", 5)
    inputs = Inputs(memory, 29, batch=3, group=group).require_grad()
    assert_equals_reference(inputs, inputs.init())
    lived = leaves_of(inputs.lived())
    assert_equals_reference(inputs, lived)
    assert_equals_reference(inputs, lived, torch.tensor([6, 29, 1]))


@each(CORES)
def test_core_contexts_with_grouped_heads(memory: CoreContext) -> None:
    inputs = Inputs(memory, 17, group=3).require_grad()
    assert_equals_reference(inputs, inputs.init())
    lived = leaves_of(inputs.lived())
    assert_equals_reference(inputs, lived)
    assert_equals_reference(inputs, lived, torch.tensor([6, 17]))


@each([m for m in KEEPING if isinstance(m.read_rule, Landmark) and isinstance(m.retain, mn.Everything)])
@pytest.mark.parametrize("many", [0, 1000])
@pytest.mark.parametrize("group", [1, 2])
def test_landmarks_in_blocks(memory: mn.KVMemory, many: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is chosen alone, and by all entries; from states whose rows stand at one place, and have no gaps."""
    monkeypatch.setattr("mnemos.execute.landmark_blocks.MANY", many)
    monkeypatch.setattr("mnemos.execute.landmark_blocks.BLOCK", 5)
    inputs = Inputs(memory, 24, group=group).require_grad()
    assert_equals_reference(inputs, inputs.init())
    assert_equals_reference(inputs, inputs.init(), torch.tensor([13, 24]))
    before = Inputs(memory, 8)
    _, state = mn.run(memory, *before.cut(0, 8))
    assert_equals_reference(inputs, leaves_of(state))


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


@each([*LEARNING, *ODD, *KEEPING, *HIGHER, *EPISODIC, *CORES, *CLUSTERS])
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
    writing, reading = ({c.name for c in group} for group in (memory.write_controls, memory.read_controls))
    for t in range(3):
        q, k, v, controls = inputs.at(t)
        stepped, after = memory.step(state, q, k, v, controls)
        written = memory.write(state, k, v, {name: x for name, x in controls.items() if name in writing})
        before_first = getattr(memory, "read_timing", "after") == "before"
        asked = {name: x for name, x in controls.items() if name in reading}
        assert_close(memory.read(state if before_first else written, q, asked), stepped, "read")
        noted = isinstance(memory, mn.KVMemory) and isinstance(memory.retain, Policy)
        if not (noted or isinstance(memory, EpisodicMemory | Addressed)):  # a step is noted, a read not
            assert_states_close(written, after)
        state = after


@each([m for m in SOME if isinstance(m, mn.Memory | mn.KVMemory | EpisodicMemory)])
def test_reading_several_queries_at_once(memory: AnyMemory) -> None:
    inputs = Inputs(memory, 5)
    state, names = inputs.lived(), {c.name for c in memory.read_controls}
    asked = {name: x for name, x in inputs.controls.items() if name in names}
    together = memory.read(state, inputs.q, asked)
    single = [memory.read(state, inputs.q[:, t], {name: x[:, t] for name, x in asked.items()}) for t in range(5)]
    assert_close(together, torch.stack(single, 1), "several queries")


@each([*CORE, *ODD])
def test_a_single_token_without_gradients(memory: mn.Memory) -> None:
    """It may run by an algorithm of its own, in place; several of them, rows crossing chunks at different times."""
    inputs = Inputs(memory, CHUNK + 1)
    start = inputs.lived()
    state, outputs = start.clone(), []
    with torch.no_grad():
        for t in range(CHUNK + 1):
            out, state = run_rows(memory, *inputs.cut(t, t + 1), state)
            outputs.append(out)
    expected, last = run_rows(memory, *inputs.cut(0, CHUNK + 1), start, None, "reference")
    assert_close(torch.cat(outputs, 1), expected, "output")
    assert_states_close(state, last)

    lengths = torch.tensor([1, 0])
    expected, last = run_rows(memory, *inputs.cut(0, 1), start, lengths, "reference")
    with torch.no_grad():
        out, after = run_rows(memory, *inputs.cut(0, 1), start.clone(), lengths)
    assert_close(out[:1], expected[:1], "output")
    assert_states_close(after, last)


@each(SOME)
def test_long_runs_that_make_their_intermediates_again(memory: AnyMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemos.execute.recompute.KEPT", 0)
    inputs = Inputs(memory, length_for(memory), batch=3).require_grad()
    assert_equals_reference(inputs, leaves_of(inputs.lived()), torch.tensor([CHUNK + 1, inputs.q.shape[1], 1]))


@each([m for m in CORE if m.structure.linear_in_weights and m.retention == mn.Decay(per="channel")])
@pytest.mark.parametrize("zeros", [False, True])
def test_decays_that_may_be_divided_by(memory: mn.Memory, zeros: bool) -> None:
    """Channel by channel, in some pieces of the sequence or in all of them; rows of several lengths."""
    inputs = Inputs(memory, 300, batch=3)
    inputs.controls["decay"] = 0.05 + 0.95 * torch.rand_like(inputs.controls["decay"])
    if zeros:
        inputs.controls["decay"][0, 5, 0, 0] = 0.0
    inputs.require_grad()
    assert_equals_reference(inputs, leaves_of(inputs.lived()), torch.tensor([300, 161, 33]))


@each(SOME)
def test_the_plan_taken_is_one_that_accepts(memory: AnyMemory) -> None:
    """Lowering takes the first executor that does not decline, and says why each other one was not taken."""
    from mnemos.execute import OtherKind, Request
    from mnemos.lowering import candidates, lower

    inputs = Inputs(memory, 40)
    plan = lower(memory, Request.of(inputs.q, inputs.k, inputs.v, True))
    assert plan.executor.name == executors_for(memory, inputs)[0]
    assert [name for name, _ in plan.declined] == [e.name for e in candidates(memory) if e.name != plan.executor.name]
    text = plan.explain()
    assert plan.executor.name in text
    for name, reason in plan.declined:
        shown = "made for other kinds of memory" if isinstance(reason, OtherKind) else reason
        (line,) = (line for line in text.splitlines() if line.startswith("  not by") and line.endswith(f": {shown}"))
        assert name in line.removesuffix(shown)
    assert plan.flops > 0
    _, state = mn.run(memory, inputs.q, inputs.k, inputs.v, inputs.controls, inputs.weights)
    assert plan.state_bytes == state.nbytes
