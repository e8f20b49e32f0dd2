"""The choice of an algorithm, as a list that is read from the top."""

from __future__ import annotations

from mnemos.errors import PlanError
from mnemos.execute import (
    AnchoredDual,
    AnchoredMap,
    BetweenEvictions,
    ChainStep,
    ClusterOrder,
    ConjugateGradients,
    CoresAndWindow,
    CumulativeDecay,
    DiagonalScan,
    DiagonalSteps,
    EpisodeBlocks,
    Executor,
    Fenwick,
    FLAKernel,
    FullAttention,
    LandmarkBlocks,
    Loop,
    MatrixStep,
    MiniBatchDual,
    NestedSums,
    NonlinearTriangular,
    OuterDecay,
    QueryBlocks,
    Recurrence,
    Request,
    TriangularDelta,
    TriangularRemoval,
    WindowedAttention,
)
from mnemos.lowering.hard_locations import HardLocations
from mnemos.lowering.implicit_step import ImplicitStep
from mnemos.lowering.plan import Plan
from mnemos.lowering.rewrite import Rewrite, Rewritten
from mnemos.lowering.rotated_frame import RotatedFrame
from mnemos.lowering.several_steps import SeveralSteps
from mnemos.memory import AnyMemory

STEPS: tuple[Executor, ...] = (Recurrence(), MatrixStep(), ChainStep(), Loop())
"""For a single token."""

EXECUTORS: tuple[Executor, ...] = (
    *STEPS[:-1],
    FLAKernel(),
    CumulativeDecay(),
    DiagonalScan(),
    OuterDecay(),
    TriangularDelta(),
    NonlinearTriangular(),
    TriangularRemoval(),
    AnchoredDual(),
    AnchoredMap(),
    ConjugateGradients(),
    DiagonalSteps(),
    MiniBatchDual(),
    NestedSums(),
    FullAttention(),
    WindowedAttention(),
    LandmarkBlocks(),
    QueryBlocks(),
    BetweenEvictions(),
    EpisodeBlocks(),
    CoresAndWindow(),
    ClusterOrder(),
    Fenwick(),
    STEPS[-1],
)
"""From the most special to the most general; the first that does not decline is taken. A new algorithm is a line."""

REWRITES: tuple[Rewrite, ...] = (RotatedFrame(), SeveralSteps(), ImplicitStep(), HardLocations())
"""Tried before the algorithms; the first identity that holds is used. A new one is a line."""


def candidates(memory: AnyMemory) -> tuple[Executor, ...]:
    """All executors for a memory, the ones that decline it included: first those of the plainer memory that it may
    be in disguise, then its own."""
    for rewrite in REWRITES:
        plainer = rewrite.memory(memory)
        if plainer is not None:
            inner = [executor for executor in candidates(plainer) if executor is not EXECUTORS[-1]]
            return (*(Rewritten(rewrite, executor) for executor in inner), *EXECUTORS)
    return EXECUTORS


def lower(memory: AnyMemory, request: Request, plan: str | None = None) -> Plan:
    """The plan for `memory` on `request`; `plan` names an executor to insist on.

    Raises PlanError if that executor does not exist or declines.
    """
    if plan is not None:
        return _insisted(memory, request, plan)
    if request.length == 1:
        chosen = step_executor(memory, request)
        reason = "a single token is fastest by one plain step"
        declined = tuple((e.name, e.declines(memory, request) or reason) for e in EXECUTORS if e is not chosen)
        return Plan(memory, request, chosen, declined)
    executors = candidates(memory)
    reasons = {executor.name: executor.declines(memory, request) for executor in executors}
    chosen = next(executor for executor in executors if reasons[executor.name] is None)
    instead = f"{chosen.name} does the same faster"
    declined = tuple((e.name, reasons[e.name] or instead) for e in executors if e is not chosen)
    return Plan(memory, request, chosen, declined)


def step_executor(memory: AnyMemory, request: Request) -> Executor:
    """What runs a single token."""
    return next(executor for executor in STEPS if executor.declines(memory, request) is None)


def _insisted(memory: AnyMemory, request: Request, name: str) -> Plan:
    by_name = {executor.name: executor for executor in candidates(memory)}
    if name not in by_name:
        raise PlanError(f'no plan is called {name!r}; there are "reference", {", ".join(map(repr, by_name))}.')
    reason = by_name[name].declines(memory, request)
    if reason is not None:
        raise PlanError(f"{name!r} cannot run {memory}: {reason}.")
    return Plan(memory, request, by_name[name], ())
