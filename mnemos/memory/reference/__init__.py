"""The oracle: what every memory means, written as literally as possible.

Token by token in float64, the inner gradient by autograd, the kept entries as a plain list. Every algorithm in
`mnemos.execute`, and the fast step of each memory, is held against this in outputs, states and gradients. Nothing
here is fast, and nothing here shares code with what it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mnemos.memory.addressed import Addressed
from mnemos.memory.base import AnyMemory
from mnemos.memory.cliques import Cliques
from mnemos.memory.clustered_window import ClusteredWindow
from mnemos.memory.control import Controls
from mnemos.memory.core_context import CoreContext
from mnemos.memory.episodic import EpisodicMemory
from mnemos.memory.higher_order import HigherOrder
from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import GD, Implicit, LeastSquares, MiniBatch, Omega
from mnemos.memory.learning import Memory
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.reference.addressing import address_rows
from mnemos.memory.reference.clustered_window import route
from mnemos.memory.reference.coding import encode
from mnemos.memory.reference.core_context import pool
from mnemos.memory.reference.counting import count_up
from mnemos.memory.reference.descending import descend
from mnemos.memory.reference.keeping import keep
from mnemos.memory.reference.linking import link_up
from mnemos.memory.reference.log_linear import fenwick
from mnemos.memory.reference.mini_batches import learn_in_batches
from mnemos.memory.reference.proximal import approach
from mnemos.memory.reference.remembering import remember
from mnemos.memory.reference.solving import solve
from mnemos.memory.reference.summing import add_up
from mnemos.memory.reference.windowing import follow_window
from mnemos.memory.sparse_distributed import SparseDistributed
from mnemos.memory.sparsey import Sparsey
from mnemos.memory.willshaw import Willshaw
from mnemos.state import State

Literally = Callable[[Any, Tensor, Tensor, Tensor, Controls, State, "Tensor | None"], tuple[Tensor, State]]
"""(memory, q, k, v, controls, state, lengths) -> outputs (B, T, H, V) and the state after, all in float64."""

LITERALLY: dict[type, Literally] = {
    GD: descend,
    Implicit: approach,
    LeastSquares: solve,
    MiniBatch: learn_in_batches,
    Omega: follow_window,
    KVMemory: keep,
    ClusteredWindow: route,
    CoreContext: pool,
    LogLinear: fenwick,
    EpisodicMemory: remember,
    HigherOrder: add_up,
    Willshaw: link_up,
    Cliques: link_up,
    Sparsey: encode,
    SparseDistributed: count_up,
    Addressed: address_rows,
}
"""By learner for the memories of the four choices, by kind of memory for all others."""


def run(
    memory: AnyMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """The literal loop. Shapes as in `mn.run`; tokens at or beyond a row's length leave its state alone.

    Outputs come in v's dtype; the state in float64 unless its own tensors are of another kind.
    """
    kind = type(memory.learner) if isinstance(memory, Memory) else type(memory)
    if kind not in LITERALLY:
        raise NotImplementedError(f"no reference for {kind.__name__}: add one to mnemos/memory/reference")
    wide = {name: value.double() for name, value in controls.items()}
    outputs, after = LITERALLY[kind](memory, q.double(), k.double(), v.double(), wide, state, lengths)
    return outputs.to(v.dtype), after
