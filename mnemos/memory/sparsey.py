"""Sparsey: one-shot memory in sparse codes, in which like inputs have overlapping codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Controls
from mnemos.memory.patterns import Patterns
from mnemos.memory.sparse_distributed import scrambled
from mnemos.state import State


@dataclass(frozen=True)
class Sparsey(AnyMemory):
    """Sparsey's coding field (arXiv 1710.07829): `modules` competitive modules of `units` units; a code is one winner a
    module, chosen by how familiar the key is.

        x = [k > 0],  V_i = share of x that unit i is linked with,  G = mean over modules of their largest V
        eta = 1 + expansion units ((G - floor)_+ / (1 - floor))^sharpness
        write:  psi_i = 1 + (eta - 1) sigmoid(steepness V_i - shift);  a winner is drawn in each module in proportion to
                psi, and linked with all of x and with all of y = [v > 0]
        read:   the winner is the largest V (the first of equals);  o_i = [unit i of y is linked with all winners]

    A familiar key finds its own code again, a new one (G at most floor) a random code, and one in between a code that
    shares the more winners the more it is alike. Nothing is linked by an empty key, nor once more than `saturation` of
    the links from the keys are set. The draws are those of `seed` and the number of tokens before. A key of which no
    unit knows anything answers zero. Only the code is Sparsey's; values on it are a Willshaw net.

    Its state: `links` (B, H, modules * units, K) and `back` (B, H, V, modules * units) bool, `count` (B,). Answers are
    0 or 1, so no gradient goes through them.
    """

    modules: int = 16
    units: int = 8
    expansion: float = 2.5
    sharpness: float = 1.0
    floor: float = 0.2
    steepness: float = 28.0
    shift: float = 5.0
    saturation: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        expect(self.modules >= 1, f"Sparsey(modules=) is at least 1; got {self.modules}.")
        expect(self.units >= 2, f"Sparsey(units=) is at least 2; got {self.units}.")
        expect(0 <= self.floor < 1, f"Sparsey(floor=) lies in [0, 1); got {self.floor}.")
        expect(0 < self.saturation <= 1, f"Sparsey(saturation=) lies in (0, 1]; got {self.saturation}.")
        for name in ("expansion", "sharpness", "steepness"):
            value = getattr(self, name)
            expect(math.isfinite(value) and value > 0, f"Sparsey({name}=) is positive; got {value}.")
        expect(math.isfinite(self.shift), f"Sparsey(shift=) is a number; got {self.shift}.")

    @property
    def differentiable(self) -> bool:
        return False

    @property
    def patterns(self) -> Patterns:
        return Patterns("sparse")

    @property
    def kept(self) -> str:
        return f"binary links of keys, codes of {self.modules} winners and values"

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 4.0 * self.modules * self.units * (key_dim + value_dim)

    def init(
        self,
        batch: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        weights: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """No link set; `dtype` means nothing here. Raises InvalidValue for any weights."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a Sparsey memory starts empty and takes no weights.")
        cells = self.modules * self.units
        fresh = {
            "links": torch.zeros(1, heads, cells, key_dim, dtype=torch.bool, device=device),
            "back": torch.zeros(1, heads, value_dim, cells, dtype=torch.bool, device=device),
            "count": torch.zeros(1, dtype=torch.int64, device=device),
        }
        return State(self.owner(heads, key_dim, value_dim), fresh).expand(batch)

    def support(self, state: State, x: Tensor) -> Tensor:
        """V of keys x (B, n, H, K): (B, n, H, modules, units) in float64, 0 for an empty key."""
        active = (x > 0).double()
        known = torch.einsum("bnhk,bhck->bnhc", active, state["links"].double())
        share = known / active.sum(-1, keepdim=True).clamp(min=1)
        return share.unflatten(-1, (self.modules, self.units))

    def familiarity(self, state: State, x: Tensor) -> Tensor:
        """G of keys x (B, n, H, K): (B, n, H)."""
        return self.support(state, x).amax(-1).mean(-1)

    def chances(self, support: Tensor) -> Tensor:
        """With which chance each unit wins a write, (..., modules, units), by its V."""
        familiar = support.amax(-1).mean(-1)[..., None, None]
        above = ((familiar - self.floor) / (1 - self.floor)).clamp(min=0)
        gain = self.expansion * self.units * above**self.sharpness
        odds = 1 + gain * torch.sigmoid(self.steepness * support - self.shift)
        return odds / odds.sum(-1, keepdim=True)

    def code(self, state: State, x: Tensor) -> Tensor:
        """The winners that keys x (B, n, H, K) read with: (B, n, H, modules), the place within each module."""
        return self.support(state, x).argmax(-1)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        links, back, count = state["links"], state["back"], state["count"]
        chances = self.chances(self.support(state, k[:, None])[:, 0])
        won = (chances.cumsum(-1) <= self._draws(count, k.shape[1])[..., None]).sum(-1).clamp(max=self.units - 1)
        winner = F.one_hot(won, self.units).flatten(-2) > 0  # (B, H, cells)
        open_ = links.double().mean((-1, -2)) <= self.saturation
        winner = winner & (open_ & (k > 0).any(-1))[..., None]
        new, gone = winner[..., :, None] & (k > 0)[..., None, :], (v > 0)[..., :, None] & winner[..., None, :]
        if torch.is_grad_enabled():
            return state.successor(links=links | new, back=back | gone, count=count + 1)
        state.spend()
        return state.successor(links=links.logical_or_(new), back=back.logical_or_(gone), count=count.add_(1))

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        x = q if several else q[:, None]
        support = self.support(state, x)
        code = F.one_hot(support.argmax(-1), self.units).flatten(-2).double()
        linked = torch.einsum("bnhc,bhvc->bnhv", code, state["back"].double())
        out = (linked == self.modules) & (support.amax((-1, -2)) > 0)[..., None]
        out = out.to(q.dtype)
        return out if several else out[:, 0]

    def _draws(self, count: Tensor, heads: int) -> Tensor:
        """Numbers in [0, 1) by token, head and module: (B, H, modules)."""
        place = torch.arange(heads * self.modules, device=count.device).view(heads, self.modules)
        start = scrambled(torch.tensor(self.seed, device=count.device))
        mixed = scrambled(scrambled(count + start)[:, None, None] + place)
        return ((mixed >> 20) & 0xFFFFFFFF).double() / 2**32

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)
