"""What one layer of a model remembers in episodes."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.errors import StateError
from mnemos.hf.cache_layer import MemoryCacheLayer
from mnemos.hf.rotary import Rotary
from mnemos.lowering import run_rows
from mnemos.memory import EpisodicMemory


class EpisodicLayer(MemoryCacheLayer):
    """The state of an `EpisodicMemory`, on a device of its own if one is given: queries, new keys and values go there
    and answers come back, so that the entries take no room beside the model."""

    def __init__(
        self, declared: EpisodicMemory, rotary: Rotary | None = None, device: torch.device | str | None = None
    ) -> None:
        self.declared, self.place = declared, None if device is None else torch.device(device)
        super().__init__(rotary)

    def reset(self) -> None:
        super().reset()
        self.surprise: Tensor | None = None

    def _answer(
        self, q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, lengths: Tensor | None, scale: float | None
    ) -> Tensor:
        home, place = q.device, self.place or q.device
        controls = self._controls(k, order)
        q, k, v = (x.to(place) for x in (q, k, v))
        controls = {name: x.to(place) for name, x in controls.items()}
        if self.state is None:
            batch, _, heads, key_dim = k.shape
            self.memory = self.declared.replace(scale=scale)
            self.state = self.memory.init(batch, heads, key_dim, v.shape[-1], None, k.dtype, place)
        assert self.memory is not None and self.state is not None
        if self.place is None and self.state.device != home:  # it was loaded elsewhere
            self.state = self.state.to(home)
        lengths = None if lengths is None else lengths.to(place)
        out, self.state = run_rows(self.memory, q, k, v, controls, self.state, lengths)
        return out.to(home)

    def draft(self) -> EpisodicLayer:
        """A layer that goes on from this one and leaves it as it is."""
        other = EpisodicLayer(self.declared, self.rotary, self.place)
        other.memory, other.seen = self.memory, self.seen
        other.state = None if self.state is None else self.state.clone()
        return other

    def _controls(self, k: Tensor, order: Tensor | None) -> dict[str, Tensor]:
        """The surprise of each token, for every head."""
        if not self.declared.write_controls:
            return {}
        surprise, self.surprise = self.surprise, None
        if surprise is None:
            raise StateError(
                "episodes begin where the model is surprised, and nobody said how much it is. Generate inside "
                '`with mnemos.hf.own_surprise(model):`, or use Surprise(of="keys").'
            )
        surprise = surprise if order is None else surprise.take_along_dim(order, 1)
        return {"surprise": surprise.to(k.device)[..., None].expand(*k.shape[:3])}
