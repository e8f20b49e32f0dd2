"""A state that turns stands still in a frame that turns with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute import Request
from mnemos.lowering.rewrite import Runner
from mnemos.memory import GD, Controls, Decay, Memory
from mnemos.memory.retention.decay import turn_weight
from mnemos.memory.rotary import turn_pairs
from mnemos.state import State


class RotatedFrame:
    """Complex decay is real decay on turned inputs. With A_t the sum of the angles up to t and R the rotation,

        W'_t = W_t R(-A_t)    of keys k'_t = R(-A_t) k_t and queries q'_t = R(-A_t) q_t            rotate="key"
        W'_t = R(-A_t) W_t    of values v'_t = R(-A_t) v_t, its outputs turned back by R(A_t)      rotate="value"

    is not turned any more. A read before the write sees W_t-1, thus A_t-1. The gradient must turn like the step that
    it makes: it does at the retained weights, and where it does not depend on the weights. On the values' side it must
    be linear in the residual besides. Momentum is not turned along, and declines. Angles are summed in float64.
    """

    name = "rotated frame"

    def memory(self, memory: Any) -> Any | None:
        if not isinstance(memory, Memory) or type(memory.learner) is not GD or type(memory.retention) is not Decay:
            return None
        retention, learner, slope = memory.retention, memory.learner, memory.objective.slope_kind
        if retention.rotate is None or learner.momentum or learner.anchored:
            return None
        if learner.anchor != "retained" and slope != "constant":
            return None
        if retention.rotate == "value" and (slope == "nonlinear" or memory.objective.controls):
            return None
        side = "channel" if retention.rotate == "key" else "value"
        return memory.replace(retention=Decay(per=side if retention.per == "pair" else retention.per))

    def request(self, memory: Any, request: Request) -> Request:
        return request

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
        retention, length = memory.retention, q.shape[1]
        plain = {name: value for name, value in controls.items() if name != "angle"}
        if retention.per == "pair":
            plain["decay"] = torch.cat([plain["decay"], plain["decay"]], -1)
        angles = F.pad(controls["angle"].double().cumsum(1), (0, 0, 0, 0, 1, 0))  # from the angle before the first
        written = angles[:, 1:]
        asked = written if memory.read_timing == "after" else angles[:, :-1]
        if retention.rotate == "key":
            out, after = inner(turn_pairs(q, -asked), _each(k, -written, memory.pairs), v, plain, state, lengths)
        else:
            out, after = inner(q, k, _each(v, -written, memory.pairs), plain, state, lengths)
            out = turn_pairs(out, asked)
        if lengths is None:
            end = angles[:, length]
        else:
            end = angles.gather(1, lengths[:, None, None, None].expand(-1, 1, *angles.shape[2:]))[:, 0]
        return out, after.successor(**{**after.entries, "matrix": turn_weight(after["matrix"], end, retention.rotate)})


def _each(x: Tensor, angles: Tensor, pairs: int) -> Tensor:
    """Each of the `pairs` vectors in x's last axis turned by the same angles."""
    return turn_pairs(x.unflatten(-1, (pairs, -1)), angles[..., None, :]).flatten(-2)
