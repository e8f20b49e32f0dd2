"""Several pairs a token are several tokens, of which the last one reads and the first one forgets."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mnemos.execute import Request
from mnemos.lowering.rewrite import Runner
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State


class SeveralSteps:
    """GD(steps=n) on T tokens is GD() on n T tokens whose decay is 1 and whose output is dropped but for one in n."""

    name = "steps as tokens"

    def memory(self, memory: Any) -> Any | None:
        if not isinstance(memory, Memory) or not isinstance(memory.learner, GD) or memory.learner.steps == 1:
            return None
        if memory.retention.scaling is None or memory.objective.controls:
            return None
        return memory.replace(learner=memory.learner.replace(steps=1))

    def request(self, memory: Any, request: Request) -> Request:
        return request._replace(length=request.length * memory.pairs)

    def run(
        self,
        memory: Any,
        inner: Runner,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        steps = memory.pairs
        reads = steps - 1 if memory.read_timing == "after" else 0
        spread = {"decay": _spread(controls["decay"], steps, 0, 1.0)} if "decay" in controls else {}
        if "rate" in controls:
            spread["rate"] = controls["rate"].movedim(-1, 2).flatten(1, 2)
        k, v = (x.unflatten(-1, (steps, -1)).movedim(3, 2).flatten(1, 2) for x in (k, v))
        ends = None if lengths is None else lengths * steps
        out, after = inner(_spread(q, steps, reads, 0.0), k, v, spread, state, ends)
        return out[:, reads::steps], after


def _spread(x: Tensor, steps: int, place: int, filling: float) -> Tensor:
    """(B, T, ...) -> (B, T * steps, ...): each token's own at one place of its steps, `filling` at the others."""
    x = x.unsqueeze(2)
    empty = [0, 0] * (x.ndim - 3)
    return F.pad(x, [*empty, place, steps - 1 - place], value=filling).flatten(1, 2)
