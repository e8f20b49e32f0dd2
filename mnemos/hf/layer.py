"""What one layer of a model keeps within a policy's budget."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mnemos.hf.cache_layer import MemoryCacheLayer
from mnemos.hf.rotary import Rotary
from mnemos.lowering import run_rows
from mnemos.memory import KVMemory, Policy, Softmax
from mnemos.memory.places import least_worthy
from mnemos.state import State

Prefill = Literal["stream", "whole"]
Decode = Literal["hold", "grow"]

GROWTH = 64
"""Places that are added at once while the table grows."""


class PolicyLayer(MemoryCacheLayer):
    """The state of a `KVMemory` that a policy cuts to its budget, each row and head by itself. Keys stay turned to the
    positions that the model gave them, or count the kept entries where `rotary` is given.

    The table of places grows with what is there, up to budget + period places; nothing else is held.
    """

    def __init__(
        self,
        policy: Policy,
        prefill: Prefill = "stream",
        ratio: float | None = None,
        decode: Decode = "hold",
        rotary: Rotary | None = None,
    ) -> None:
        self.policy, self.prefill, self.ratio, self.decode = policy, prefill, ratio, decode
        super().__init__(rotary)

    def reset(self) -> None:
        super().reset()
        self.filled = 0  # places at most, of any head

    def _answer(
        self, q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, lengths: Tensor | None, scale: float | None
    ) -> Tensor:
        length = k.shape[1]
        if self.state is None:
            self._start(k, v, scale, int(length if lengths is None else lengths.max()))
        assert self.memory is not None and self.state is not None
        if length > 1 and self.prefill == "whole":
            out, self.state = self._whole(q, k, v, lengths)
            return out
        memory, needed = self.memory, -(-(self.filled + length) // GROWTH) * GROWTH
        if self.decode == "hold":
            needed = min(needed, self.policy.capacity + 1)
        else:
            memory = self._roomy(needed)
        out, self.state = run_rows(memory, q, k, v, {}, grown(self.state, needed), lengths)
        self.filled = min(self.filled + length, needed)
        return out

    def _start(self, k: Tensor, v: Tensor, scale: float | None, prompt: int) -> None:
        """An empty state for such keys and values."""
        if self.ratio is not None:
            budget = max(round(self.ratio * prompt), self.policy.sinks + self.policy.recent)
            self.policy = self.policy.replace(budget=budget)
        base = None if self.rotary is None else self.rotary.base
        self.memory = KVMemory(retain=self.policy, read=Softmax(scale=scale, rotary=base, positions="kept"))
        batch, _, heads, key_dim = k.shape
        little = KVMemory(retain=self.policy.replace(budget=self.policy.sinks + self.policy.recent, period=1))
        state = little.init(batch, heads, key_dim, v.shape[-1], None, k.dtype, k.device)
        empty = {name: x[:, :, :0] if x.ndim > 1 else x for name, x in state.tensors()}
        fresh = {name: x[:, :, :0] if x.ndim > 1 else x for name, x in state.fresh.items()}
        self.state = State(self.memory.owner(heads, key_dim, v.shape[-1]), empty, fresh)

    def _roomy(self, places: int) -> KVMemory:
        """The memory with room for so many more, so that it drops nothing."""
        assert self.memory is not None
        return KVMemory(retain=self.policy.replace(budget=places + self.policy.budget), read=self.memory.read_rule)

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        """All tokens read all before them and what was kept; then each head is cut to the budget."""
        assert self.memory is not None and self.state is not None
        state, policy = self.state, self.policy
        most = state["slot"].shape[-1] + k.shape[1]
        out, state = run_rows(self._roomy(most), q, k, v, {}, grown(state, most), lengths)
        filled = (state["slot"] > 0).sum(-1, keepdim=True)
        excess = int(filled.max()) - policy.budget
        slot = state["slot"]
        if excess > 0:
            slot = torch.where(least_worthy(policy, state, filled - policy.budget, excess), 0, slot)
        left = torch.where(slot > 0, slot, torch.iinfo(torch.int64).max).argsort(-1)
        left = left[..., : min(int(filled.max()), policy.budget)]  # in the order of time
        self.filled = left.shape[-1]
        entries: dict[str, Tensor | State] = {"count": state["count"]}
        for name, x in (*state.tensors(), ("slot", slot)):
            if x.ndim > 1:
                entries[name] = x.gather(2, left) if x.ndim == 3 else x.take_along_dim(left[..., None], 2)
        return out, state.successor(**entries)


def grown(state: State, places: int) -> State:
    """The state with at least so many places."""
    held = state["slot"].shape[-1]
    if held >= places:
        return state
    entries: dict[str, Tensor | State] = {"count": state["count"]}
    for name, x in state.tensors():
        if x.ndim > 1:
            entries[name] = torch.cat([x, x.new_zeros(*x.shape[:2], places - held, *x.shape[3:])], 2)
    return state.successor(**entries)
