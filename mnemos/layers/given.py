"""Controls that come from outside a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidValue, expect
from mnemos.layers.controls import ControlRule

_given: ContextVar[dict[str, Tensor] | None] = ContextVar("given", default=None)


@contextmanager
def given(**controls: Tensor) -> Iterator[None]:
    """Within, `Given(name)` is the tensor (B, T) of that name, for runs of B rows of T tokens without `reset` or
    `mask`."""
    token = _given.set(controls)
    try:
        yield
    finally:
        _given.reset(token)


@dataclass(frozen=True)
class Given(ControlRule):
    """What is given under this name around the run, the same for all heads: for what a layer cannot know, such as how
    unexpected a token was to the whole model (`mnemos.models.read_with_surprise`)."""

    name: str

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is None, f"Given({self.name!r}) is one number a token, the same for all heads.")
        return _Given(self.name, heads)


class _Given(nn.Module):
    def __init__(self, name: str, heads: int):
        super().__init__()
        self.name, self.heads = name, heads

    def forward(self, x: Tensor) -> Tensor:
        value = (_given.get() or {}).get(self.name)
        if value is None or value.shape != x.shape[:2]:
            there = "nothing of that name" if value is None else f"numbers of shape {tuple(value.shape)}"
            raise InvalidValue(
                f"this layer takes {self.name!r} from outside, one number for each of (batch, time) = "
                f"{tuple(x.shape[:2])} tokens; given was {there}. Run the model by read_with_surprise, or within "
                f"layers.given({self.name}=...), and without reset or mask."
            )
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return value.to(x.device, wide)[..., None].expand(-1, -1, self.heads)
