"""A dense associative memory's updates."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import DenseAssociative


def dense_associative(
    rule: DenseAssociative, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Each sign by the two energies it could have."""

    def f(x: Tensor) -> Tensor:
        if rule.form == "exp":
            return torch.exp(x)
        return torch.where((x > 0) | (rule.form == "power"), x, torch.zeros_like(x)) ** rule.power

    keys, values, state = keys.detach(), values.detach(), torch.sign(q.detach())
    for i in [*range(len(q))] * rule.sweeps:
        up, down = state.clone(), state.clone()
        up[i], down[i] = 1, -1
        one, other = f(keys @ up).sum(), f(keys @ down).sum()
        state[i] = state[i] if torch.isclose(one, other, rtol=1e-14, atol=0) else torch.sign(one - other)
    near = keys @ state
    out = torch.sign(f(near[:, None] + values).sum(0) - f(near[:, None] - values).sum(0))
    slope = f(near) if rule.form == "exp" else torch.sqrt(f(near).abs() ** (2 * (rule.power - 1) / rule.power))
    return out, slope / max(float(slope.sum()), 1e-300)
