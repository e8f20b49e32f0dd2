"""What the layers of our caches share: how they sit under an unmodified model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from mnemos.errors import InvalidValue, StateError
from mnemos.hf.rotary import Rotary
from mnemos.state import State


class MemoryCacheLayer(CacheLayerMixin):
    """One layer of a model whose keys and values are written to a memory, and whose queries that memory answers.

    Keys and queries come turned to the positions that the model gave them. With `rotary` they are turned back first,
    for memories that count positions of their own. A layer gives `_answer`.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self, rotary: Rotary | None = None) -> None:
        self.rotary = rotary
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.state: State | None = None
        self.memory: Any = None
        self.seen = 0
        self._waiting = False

    @staticmethod
    def of(keys: Tensor) -> MemoryCacheLayer | None:
        """The layer that handed these keys out, if one did."""
        return getattr(keys, "mnemos_layer", None)

    @property
    def is_initialized(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.state is not None

    @property
    def keys(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The keys that are kept, as the state has them; which places are filled says `state["slot"]`."""
        return None if self.state is None else self.state["keys"]

    @property
    def values(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The values beside them."""
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

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Write T tokens and answer their queries (B, heads, T, K): (B, T, heads, V), zero at padding.

        mask (B, all tokens so far, these included): False for padding, which is not written. positions (B or 1, T): to
        which the model turned keys and queries; None to count all tokens, as models do.
        """
        self._waiting = False
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        batch, length = k.shape[:2]
        if self.state is not None and self.state.batch != batch:
            raise StateError(
                f"the cache holds {self.state.batch} rows and the input has {batch}. Use a new cache for other inputs, "
                "or cache.batch_select_indices(rows)."
            )
        if self.rotary is not None:
            if positions is None:
                positions = torch.arange(self.seen, self.seen + length, device=k.device)[None]
            q, k = self.rotary.back(q, positions), self.rotary.back(k, positions)
        real = self.real_tokens(mask, length)
        order, lengths = None, None
        if real is not None:  # the real tokens of a row first
            order = real.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            lengths = real.sum(1)
            q, k, v = (x.take_along_dim(order[:, :, None, None], 1) for x in (q, k, v))
        out = self._answer(q, k, v, order, lengths, scale)
        self.seen += length
        if order is not None:
            assert lengths is not None
            out = out * (torch.arange(length, device=out.device) < lengths[:, None])[:, :, None, None]
            out = torch.zeros_like(out).scatter(1, order[:, :, None, None].expand_as(out), out)
        return out.contiguous()

    def _answer(
        self, q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, lengths: Tensor | None, scale: float | None
    ) -> Tensor:
        """Write k, v (B, T, H, .) and answer q (B, T, heads, K): (B, T, heads, V). order (B, T): where each of the
        tokens stood in the input, None if nothing was moved; lengths (B,): how many are real, the first ones."""
        raise NotImplementedError

    def real_tokens(self, mask: Tensor | None, length: int) -> Tensor | None:
        """Which of so many new tokens are no padding (B, T), by a mask of all tokens so far; None if all are. Raises
        InvalidValue for a mask of other tokens."""
        if mask is None:
            return None
        real = mask[:, self.seen : self.seen + length].bool()
        if real.shape[1] != length:
            raise InvalidValue(
                f"attention_mask covers {mask.shape[1]} tokens, but {self.seen} were seen and {length} are new: "
                "it must cover all of them."
            )
        return None if bool(real.all()) else real

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
        """Raises InvalidValue: what later tokens changed in a memory cannot be taken back."""
        raise InvalidValue(
            "what later tokens changed in a memory cannot be taken back, so this cache cannot be cropped; assisted "
            "decoding needs another cache."
        )
