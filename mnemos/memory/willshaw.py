"""Willshaw's associative net: binary pairs in binary links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.checks import check_sizes
from mnemos.memory.control import Controls
from mnemos.memory.patterns import Patterns
from mnemos.state import State


@dataclass(frozen=True)
class Willshaw(AnyMemory):
    """The net of Willshaw, Buneman and Longuet-Higgins (1969): clipped Hebbian learning of sparse binary pairs.

        x = [k > 0], y = [v > 0]:   W <- W or y x^T          s = W [q > 0],   o_i = [s_i >= theta]

    theta is the number of ones in the cue, so that a part of a stored key brings back all of its value, and more where
    chance has linked further units; or, with `winners`, the score of the best so many (those that are equal to the last
    one included, those of score 0 never). An empty cue answers zero. After P pairs of a of n and b of m ones a share
    1 - (1 - a b / (n m))^P of the links is set, of which about a half is best. Writing a pair again changes nothing.

    Its state: `links` (B, H, V, K) bool. Answers are 0 or 1, so no gradient goes through them.
    """

    winners: int | None = None

    def __post_init__(self) -> None:
        expect(
            self.winners is None or self.winners >= 1,
            f"Willshaw(winners=) is at least 1, or None for the cue's own threshold; got {self.winners}.",
        )

    @property
    def differentiable(self) -> bool:
        return False

    @property
    def patterns(self) -> Patterns:
        return Patterns("sparse")

    @property
    def kept(self) -> str:
        return "binary links of keys and values"

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 3.0 * key_dim * value_dim

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
        """No link set; `dtype` means nothing here. Raises InvalidValue for any weights, and for fewer values' channels
        than winners."""
        check_sizes(batch, heads, key_dim, value_dim)
        expect(not weights, "a Willshaw net starts empty and takes no weights.")
        expect(
            self.winners is None or self.winners <= value_dim,
            f"{self.winners} winners need as many value channels; got value_dim={value_dim}.",
        )
        links = torch.zeros(1, heads, value_dim, key_dim, dtype=torch.bool, device=device)
        return State(self.owner(heads, key_dim, value_dim), {"links": links}).expand(batch)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        return linked(state, (v > 0)[..., :, None] & (k > 0)[..., None, :])

    def _write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        return linked(state, met(k, v))

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        links = state["links"]
        cue = (q > 0).to(torch.float64 if q.dtype == torch.float64 else torch.float32)  # counts are exact in these
        several = q.ndim == 4
        cue = cue.transpose(1, 2) if several else cue[..., None, :]
        score = cue @ links.to(cue.dtype).mT
        if self.winners is None:
            least = cue.sum(-1, keepdim=True)
        else:
            least = score.topk(self.winners, -1).values[..., -1:]
        out = ((score >= least) & (score > 0)).to(q.dtype)
        return out.transpose(1, 2) if several else out[..., 0, :]

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)


def met(k: Tensor, v: Tensor) -> Tensor:
    """Which channels of v (B, N, H, V) and k (B, N, H, K) are positive in the same token of any: (B, H, V, K)."""
    return torch.einsum("bnhv,bnhk->bhvk", (v > 0).float(), (k > 0).float()) > 0


def linked(state: State, new: Tensor) -> State:
    """The state with these links too, set in its own tensor if gradients are off."""
    state.refuse_if_spent()
    if torch.is_grad_enabled():
        return state.successor(links=state["links"] | new)
    links = state["links"].logical_or_(new)
    state.spend()
    return state.successor(links=links)
