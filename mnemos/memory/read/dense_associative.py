"""Dense associative memories: Hopfield networks of signs with steep energies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.patterns import Patterns
from mnemos.memory.read.base import Read


@dataclass(frozen=True)
class DenseAssociative(Read):
    """A dense associative memory (arXiv 1606.01164; "exp": arXiv 1702.01929), its patterns the keys, signs for which
    the theory is made; its state starts as the sign of the query.

        E(s) = -sum_j F(k_j . s),   F(x) = x^power, max(x, 0)^power or exp(x)
        unit by unit, `sweeps` times:  s_i <- sign( sum_j F(r_j + k_ji) - F(r_j - k_ji) ),  r_j = k_j . s without unit i
        o_a = sign( sum_j F(k_j . s + v_ja) - F(k_j . s - v_ja) )

    No update raises the energy. A unit whose sum is 0 stays as it is; a query's 0 is a unit that is not known, which
    the first sweep fills in. Written with v = k, o is where the state has come to. Values are read like the class units
    of the paper. Answers are signs, so no gradient goes through them.

    form: of F: "power", "rectified" or "exp". power: at least 2; 2 is the classical Hopfield network.
    """

    form: Literal["power", "rectified", "exp"] = "rectified"
    power: int = 3
    sweeps: int = 1
    differentiable = False

    def __post_init__(self) -> None:
        expect(
            self.form in ("power", "rectified", "exp"),
            f'DenseAssociative(form=) is "power", "rectified" or "exp"; got {self.form!r}.',
        )
        expect(self.power >= 2, f"DenseAssociative(power=) is at least 2; got {self.power}.")
        expect(
            self.form != "exp" or self.power == 3,
            f'DenseAssociative(power=) is not for form="exp"; leave it out, got {self.power}.',
        )
        expect(self.sweeps >= 0, f"DenseAssociative(sweeps=) is a number of sweeps of at least 0; got {self.sweeps}.")

    @property
    def patterns(self) -> Patterns:
        return Patterns("sign", same=True)

    def respond(
        self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        state = self.settle(q.sign(), keys, seen)
        near = state @ keys.mT
        out = self._field(near[..., None], values[..., None, :, :], seen[..., None], -2).sign()
        return out, self.weigh(near, seen, lag, controls)

    def weigh(self, scores: Tensor, seen: Tensor, lag: Tensor, controls: Mapping[str, Tensor]) -> Tensor:
        """|F'| of the overlaps, as shares of their sum."""
        if self.form == "exp":
            slope = (scores - scores.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True).clamp(min=-1e30)).exp()
        else:
            near = scores.clamp(min=0) if self.form == "rectified" else scores.abs()
            slope = (near / _largest(near * seen, -1)).pow(self.power - 1)
        slope = slope.masked_fill(~seen, 0)
        return slope / slope.sum(-1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)

    def settle(self, state: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """The state (B, H, n, K) after the sweeps, its overlaps with all patterns brought up to date at every flip."""
        near = state @ keys.mT
        units = list(state.unbind(-1))
        parts = keys.mT[..., None, :].unbind(-3)  # of each unit (B, H, 1, N)
        for _ in range(self.sweeps):
            for i, part in enumerate(parts):
                rest = near - units[i][..., None] * part
                field = self._field(rest, part, seen, -1)
                units[i] = torch.where(field == 0, units[i], field.sign())
                near = rest + units[i][..., None] * part
        return torch.stack(units, -1)

    def energy(self, state: Tensor, patterns: Tensor) -> Tensor:
        """E(s) = -sum_j F(k_j . s): state (..., n, K), patterns (..., N, K) -> (..., n)."""
        near = state @ patterns.mT
        if self.form == "exp":
            return -near.exp().sum(-1)
        return -(near.clamp(min=0) if self.form == "rectified" else near).pow(self.power).sum(-1)

    def _field(self, rest: Tensor, part: Tensor, seen: Tensor, axis: int) -> Tensor:
        """sum F(rest + part) - F(rest - part) over the patterns that are seen, on `axis`, but for a positive factor
        that keeps it in range."""
        up, down = rest + part, rest - part
        if self.form == "exp":
            top = torch.maximum(up, down).masked_fill(~seen, -torch.inf).amax(axis, keepdim=True).clamp(min=-1e30)
            up, down = (up - top).exp(), (down - top).exp()
        else:
            if self.form == "rectified":
                up, down = up.clamp(min=0), down.clamp(min=0)
            largest = _largest(torch.maximum(up.abs(), down.abs()) * seen, axis)
            up, down = (up / largest).pow(self.power), (down / largest).pow(self.power)
        field = (up - down).masked_fill(~seen, 0).sum(axis)
        rounding = 16 * torch.finfo(field.dtype).eps * (up.abs() + down.abs()).masked_fill(~seen, 0).sum(axis)
        return torch.where(field.abs() <= rounding, 0.0, field)  # sums that differ in their order only are equal


def _largest(x: Tensor, axis: int) -> Tensor:
    """The largest of x >= 0 on an axis that stays, 1 where all are 0."""
    top = x.amax(axis, keepdim=True)
    return torch.where(top > 0, top, 1.0)
