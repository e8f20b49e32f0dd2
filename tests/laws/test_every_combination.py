"""Law: every legal combination of all choices equals the reference and streams. It takes hours: `make test-every`."""

from __future__ import annotations

import pytest
import torch
from cases import (
    CHUNK,
    Inputs,
    assert_close,
    assert_equals_reference,
    assert_states_close,
    choices,
    every_combination,
    leaves_of,
    name_of,
)

import mnemos as mn
from mnemos.memory import Objective, Structure
from mnemos.state import State


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", choices(Objective), ids=name_of)
@pytest.mark.parametrize("structure", choices(Structure), ids=name_of)
def test_every_combination(structure: Structure, objective: Objective) -> None:
    failures, diverged = [], 0
    memories = every_combination(structure, objective)
    for memory in memories:
        try:
            inputs = Inputs(memory, CHUNK + 3).require_grad()
            state = leaves_of(inputs.lived())
            if diverges(inputs, state):
                diverged += 1
                continue
            assert_equals_reference(inputs, state)
            with torch.no_grad():
                whole, last = mn.run(memory, *inputs.cut(0, CHUNK + 3), state=state.clone())
                one, between = mn.run(memory, *inputs.cut(0, 1), state=state.clone())
                two, after = mn.run(memory, *inputs.cut(1, CHUNK + 3), state=between)
            assert_close(torch.cat([one, two], 1), whole, "streamed")
            assert_states_close(after, last)
        except Exception as error:  # all of them are wanted, not the first
            failures.append(f"{memory}: {type(error).__name__}: {error}")
    assert diverged <= len(memories) // 20, f"{diverged} of {len(memories)} combinations diverge: no test"
    assert not failures, f"{len(failures)} combinations:\n" + "\n".join(failures)


def diverges(inputs: Inputs, state: State) -> bool:
    """Whether the rule itself runs away on these inputs, as a constant step size does under a steep loss."""
    with torch.no_grad():
        out, after = mn.run(inputs.memory, *inputs.cut(0, inputs.q.shape[1]), state=state.detach(), plan="reference")
    numbers = [out, *(x for _, x in after.tensors() if x.is_floating_point())]
    return any(not bool(torch.isfinite(x).all()) or bool((x.abs() > 1e4).any()) for x in numbers)
