"""Run a memory over whole sequences."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mnemos.errors import InvalidType
from mnemos.execute import Request
from mnemos.execute.precision import own_precision
from mnemos.lowering.divergence import checked_over_documents
from mnemos.lowering.lower import lower, step_executor
from mnemos.lowering.watch import present_watcher
from mnemos.memory import AnyMemory, Controls, reference
from mnemos.memory.checks import check_finite, check_inputs
from mnemos.state import State, expect_state, over_documents
from mnemos.state.documents import check_flags


def run(
    memory: AnyMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls | None = None,
    weights: Mapping[str, Tensor] | None = None,
    state: State | None = None,
    plan: str | None = None,
    reset: Tensor | None = None,
    mask: Tensor | None = None,
    checks: bool = False,
) -> tuple[Tensor, State]:
    """Run `memory` over a sequence: exactly its equation, no scale, no norm, no projection.

    q, k: (batch, time, heads, key_dim); v: (batch, time, heads, value_dim). A key-value memory and an episodic one may
    have fewer heads in k and v (grouped heads).
    A memory of several pairs a token (`GD(steps=n)`) takes them one behind the other: k (batch, time, heads,
    n * key_dim).
    controls: what the memory declares, by name: (batch, time, heads), or (batch, time, heads, channels) where it wants
    more than one number a head. What a key-value memory stores with its entries has the heads of k.
    weights: its initial fast weights, (heads, out, in) each, where it learns them.
    state: to go on from; makes `weights` superfluous. plan: None to let lowering choose, "reference" for the literal
    loop in float64, or the name of an executor.
    reset: (batch, time) bool; the memory starts afresh before these tokens. mask: (batch, time) bool; tokens where
    it is False are padding, which neither writes nor reads (its outputs are zero).
    checks: whether to look for NaN and infinity in the results, and for where they came from.
    Inside an autocast block a memory still runs in the precision of its inputs and its state.

    Returns outputs (batch, time, heads, value_dim) and the state after the last token. An empty sequence gives an
    empty output and the same state. With gradients off, a run of a single token updates the given state in place.

    Raises InvalidValue or InvalidType for inputs of wrong shape, dtype or device, holding NaN or infinity, controls
    missing, unknown or out of range; StateError for a state of another memory or batch; PlanError for a plan that
    cannot run this memory; with `checks`, Diverged if the results are not finite, naming row, head and token.
    """
    if not isinstance(memory, AnyMemory):
        raise InvalidType(f"run takes a memory, for example Memory() or zoo.retnet().memory; got {memory!r}.")
    controls = dict(controls or {})
    check_inputs(memory, q, k, v, controls)
    batch, time, heads, _ = k.shape
    key_dim, value_dim = q.shape[-1], v.shape[-1] // memory.pairs
    check_flags("reset", reset, batch, time)
    check_flags("mask", mask, batch, time)
    dtype = memory.state_dtype(q.dtype)
    for name, weight in (weights or {}).items():
        if isinstance(weight, Tensor):
            check_finite(f"weights[{name!r}]", weight)
    if state is None:
        state = memory.init(batch, heads, key_dim, value_dim, weights, dtype, k.device)
    else:
        expect_state(state, "run").check(memory.owner(heads, key_dim, value_dim), batch, "run", k.device)
    names = list(controls)

    def rows(inputs: list[Tensor], state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        of_rows = dict(zip(names, inputs[3:], strict=True))
        return run_rows(memory, inputs[0], inputs[1], inputs[2], of_rows, state, lengths, plan)

    run_documents = checked_over_documents if checks else over_documents
    return run_documents(rows, [q, k, v, *controls.values()], state, reset, mask)


@own_precision
def run_rows(
    memory: AnyMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None = None,
    plan: str | None = None,
) -> tuple[Tensor, State]:
    """`run` for callers that have checked their inputs: one document a row, padded at its end beyond `lengths`."""
    state.refuse_if_spent()
    if q.shape[0] == 0 or q.shape[1] == 0:
        return v.new_zeros(*q.shape[:3], v.shape[-1] // memory.pairs), state
    if plan == "reference":
        out, after = reference.run(memory, q, k, v, controls, state, lengths)
    else:
        request = Request.of(q, k, v, torch.is_grad_enabled())
        if request.length == 1 and plan is None:  # explaining the choice would cost more than the step
            executor = step_executor(memory, request)
        else:
            executor = lower(memory, request, plan).executor
        out, after = executor.run(memory, q, k, v, controls, state, lengths)
    if not torch.compiler.is_compiling() and (watcher := present_watcher()) is not None:
        watcher(memory, q, k, v, controls, lengths, out, after)
    return out, after
