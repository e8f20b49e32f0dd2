"""A memory of clusters: each keeps the last entries that belong to it, and answers those queries that do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.errors import expect
from mnemos.memory.base import AnyMemory
from mnemos.memory.control import Control, Controls
from mnemos.memory.places import check_start, vacant
from mnemos.memory.read.base import masked_softmax
from mnemos.memory.rotary import rotate
from mnemos.state import State


@dataclass(frozen=True)
class ClusteredWindow(AnyMemory):
    """Routing attention (arXiv 2003.05997) in its causal form. Each token of a head belongs to the cluster c_t for
    which its `affinity`, a number for each of the `clusters`, is highest:

        entries_c = the last `size` of the (k_s, v_s) with s <= t and c_s = c
        o_t = sum_s softmax_s(scale q_t . k_s) v_s over entries_c,   c = c_t

    so that a token reads the last `size` tokens of its own kind, itself among them, however long ago they were. No
    gradient flows through the choice. The paper lets each cluster of a whole sequence choose its best `size` tokens,
    which tells the past of the future; with one cluster both are attention in a window.

    scale: a number, or None for 1/sqrt(key_dim). rotary: base of rotary positions, those of the stream, or None.

    Its state: `entries` with keys (B, H, N, K), values and slot (B, H, N), the position + 1 or 0, for N = clusters *
    size places, each cluster a ring; `assigned` (B, H, clusters), how many tokens each has got; `cluster` (B, H), that
    of the last token, by which `read` reads; `count` (B,).
    """

    clusters: int = 16
    size: int = 256
    scale: float | None = None
    rotary: float | None = None

    def __post_init__(self) -> None:
        expect(self.clusters >= 1, f"ClusteredWindow(clusters=) is at least 1; got {self.clusters}.")
        expect(self.size >= 1, f"ClusteredWindow(size=) counts the current token, so at least 1; got {self.size}.")
        expect(self.scale is None or self.scale > 0, f"ClusteredWindow(scale=) must be positive; got {self.scale}.")
        expect(
            self.rotary is None or self.rotary > 1, f"ClusteredWindow(rotary=) is a base above 1; got {self.rotary}."
        )

    @property
    def write_controls(self) -> tuple[Control, ...]:
        meaning = "how near a token is to each cluster; it belongs to the nearest"
        return (Control("affinity", "count", -math.inf, math.inf, meaning, self.clusters),)

    @property
    def kept(self) -> str:
        return f"{self.size} keys and values in each of {self.clusters} clusters"

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        return 2.0 * min(self.size, context) * (key_dim + value_dim)

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
        """An empty state. Raises InvalidValue for any weights."""
        check_start("a clustered window", batch, heads, key_dim, value_dim, weights, self.rotary)
        owner = self.owner(heads, key_dim, value_dim)
        entries = vacant(self.clusters * self.size, heads, key_dim, value_dim, dtype, device, apart=True)
        whole = {"dtype": torch.int64, "device": device}
        fresh = {
            "assigned": torch.zeros(1, heads, self.clusters, **whole),
            "cluster": torch.zeros(1, heads, **whole),
            "count": torch.zeros(1, **whole),
        }
        return State(owner, {"entries": State((*owner, ("part", "entries")), entries), **fresh}, fresh).expand(batch)

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the entries: that of the inputs."""
        return dtype

    def scaled_by(self, key_dim: int) -> float:
        """The factor of all scores."""
        return self.scale or 1 / math.sqrt(key_dim)

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        state.refuse_if_spent()
        in_place = not torch.is_grad_enabled()
        entries, assigned, count = state.child("entries"), state["assigned"], state["count"]
        cluster = controls["affinity"].argmax(-1)  # (B, H)
        if self.rotary is not None:
            k = rotate(k[:, None], count[:, None], self.rotary)[:, 0]
        before = assigned.gather(-1, cluster[..., None])
        place = cluster[..., None] * self.size + before % self.size  # (B, H, 1)
        new = {"keys": k[:, :, None], "values": v[:, :, None], "slot": (count[:, None, None] + 1).expand_as(place)}
        after: dict[str, Tensor | State] = {}
        for name, x in new.items():
            held, x = entries[name], x.to(entries[name].dtype)
            index = place if x.ndim == 3 else place[..., None].expand(-1, -1, -1, x.shape[-1])
            after[name] = held.scatter_(2, index, x) if in_place else held.scatter(2, index, x)
        if in_place:
            state.spend()
        return state.successor(
            entries=entries.successor(**after),
            assigned=assigned.scatter(-1, cluster[..., None], before + 1),
            cluster=cluster,
            count=count + 1,
        )

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        several = q.ndim == 4
        entries, newest = state.child("entries"), (state["count"] - 1).clamp(min=0)
        asked = (q if several else q[:, None]).to(entries["keys"].dtype)
        if self.rotary is not None:
            asked = rotate(asked, newest[:, None].expand(asked.shape[:2]), self.rotary)
        place = state["cluster"][..., None] * self.size + torch.arange(self.size, device=q.device)  # (B, H, size)
        seen = entries["slot"].gather(2, place) > 0
        keys, values = (
            entries[n].gather(2, place[..., None].expand(-1, -1, -1, entries[n].shape[-1])) for n in ("keys", "values")
        )
        scores = self.scaled_by(q.shape[-1]) * (asked.transpose(1, 2) @ keys.mT)
        out = (masked_softmax(scores, seen[:, :, None]) @ values).transpose(1, 2).to(q.dtype)
        return out if several else out[:, 0]

    def __str__(self) -> str:
        return Declaration.__str__(self)

    def __repr__(self) -> str:
        return str(self)
