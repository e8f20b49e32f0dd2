"""What one layer of a model keeps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from mnemos.errors import InvalidValue, StateError
from mnemos.lowering import run_rows
from mnemos.memory import KVMemory, Policy, Softmax
from mnemos.memory.places import least_worthy
from mnemos.state import State

Prefill = Literal["stream", "whole"]
Decode = Literal["hold", "grow"]

GROWTH = 64
"""Places that are added at once while the table grows."""


class PolicyLayer(CacheLayerMixin):
    """The state of a `KVMemory` that a policy cuts to its budget, each row and head by itself. Keys come turned to the
    positions that the model gave them, and stay so.

    The table of places grows with what is there, up to budget + period places; nothing else is held.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(
        self, policy: Policy, prefill: Prefill = "stream", ratio: float | None = None, decode: Decode = "hold"
    ) -> None:
        self.policy, self.prefill, self.ratio, self.decode = policy, prefill, ratio, decode
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.state: State | None = None
        self.memory: KVMemory | None = None
        self.seen = 0
        self.filled = 0  # places at most, of any head
        self._waiting = False

    @staticmethod
    def of(keys: Tensor) -> PolicyLayer | None:
        """The layer that handed these keys out, if one did."""
        return getattr(keys, "mnemos_layer", None)

    @property
    def is_initialized(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.state is not None

    @property
    def keys(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The table of keys (B, H, places, K); which places are filled says `state["slot"]`."""
        return None if self.state is None else self.state["keys"]

    @property
    def values(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The table of values (B, H, places, V)."""
        return None if self.state is None else self.state["values"]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.state is None else self.state.nbytes

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The new keys and values (B, H, T, .), marked with this layer: our attention function brings them back with
        the queries, and only then are they written. Raises StateError if it did not for those before."""
        if self._waiting:
            raise StateError(
                "keys and values came, but not back with their queries: the model's attention is not ours. "
                'Write model.set_attn_implementation("mnemos") before the first call.'
            )
        self._waiting = True
        keys = key_states.view_as(key_states)
        keys.mnemos_layer = self  # pyright: ignore[reportAttributeAccessIssue]
        return keys, value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        """Write T tokens and answer their queries (B, heads, T, K): (B, T, heads, V), zero at padding. mask (B, all
        tokens so far, these included): False for padding, which is not written."""
        self._waiting = False
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        batch, length = k.shape[:2]
        real = self._real(mask, length)
        order, lengths = None, None
        if real is not None:  # the real tokens of a row first
            order = real.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            lengths = real.sum(1)
            q, k, v = (x.take_along_dim(order[:, :, None, None], 1) for x in (q, k, v))
        if self.state is None:
            self._start(k, v, scale, int(length if lengths is None else lengths.max()))
        assert self.memory is not None and self.state is not None
        if self.state.batch != batch:
            raise StateError(
                f"the cache holds {self.state.batch} rows and the input has {batch}. Use a new cache for other inputs, "
                "or cache.batch_select_indices(rows)."
            )
        if length > 1 and self.prefill == "whole":
            out, self.state = self._whole(q, k, v, lengths)
        else:
            memory, needed = self.memory, -(-(self.filled + length) // GROWTH) * GROWTH
            if self.decode == "hold":
                needed = min(needed, self.policy.capacity + 1)
            else:
                memory = self._roomy(needed)
            out, self.state = run_rows(memory, q, k, v, {}, grown(self.state, needed), lengths)
            self.filled = min(self.filled + length, needed)
        self.seen += length
        if order is not None:
            assert lengths is not None
            out = out * (torch.arange(length, device=out.device) < lengths[:, None])[:, :, None, None]
            out = torch.zeros_like(out).scatter(1, order[:, :, None, None].expand_as(out), out)
        return out.contiguous()

    def _real(self, mask: Tensor | None, length: int) -> Tensor | None:
        """Which of the new tokens are no padding (B, T); None if all are."""
        if mask is None:
            return None
        real = mask[:, self.seen : self.seen + length].bool()
        if real.shape[1] != length:
            raise InvalidValue(
                f"attention_mask covers {mask.shape[1]} tokens, but {self.seen} were seen and {length} are new: "
                "it must cover all of them."
            )
        return None if bool(real.all()) else real

    def _start(self, k: Tensor, v: Tensor, scale: float | None, prompt: int) -> None:
        """An empty state for such keys and values."""
        if self.ratio is not None:
            budget = max(round(self.ratio * prompt), self.policy.sinks + self.policy.recent)
            self.policy = self.policy.replace(budget=budget)
        self.memory = KVMemory(retain=self.policy, read=Softmax(scale=scale))
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

    def get_seq_length(self) -> int:
        """Tokens seen, padding included: what the model counts positions from, not what is kept."""
        return self.seen

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """As if nothing had been dropped: the mask is made when the cache reads."""
        return self.seen + (query_length if isinstance(query_length, int) else query_length.shape[0]), 0

    def get_max_length(self) -> int:
        """No bound on the tokens it may see."""
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is made before the first keys are written."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows with these indices (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """The rows with these indices, repeats allowed."""
        if self.state is not None:
            self.state = self.state.select(indices.to(self.state.device, torch.int64))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        if self.state is not None:
            rows = torch.arange(self.state.batch, device=self.state.device)
            self.state = self.state.select(rows.repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Raises InvalidValue: what was dropped to make room for a token cannot come back."""
        raise InvalidValue("a cache that drops entries cannot be cropped; assisted decoding needs another cache.")


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
