"""The positions to which a model has turned its keys, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from transformers import PretrainedConfig

from mnemos.errors import expect
from mnemos.memory.rotary import turn_pairs

KINDS = ("llama", "mistral", "qwen2", "qwen3")
"""Models that turn all channels of every layer, i with i + K/2, as `mnemos.memory` does."""


@dataclass(frozen=True)
class Rotary:
    """Rotary positions (arXiv 2104.09864) as transformers computes them, with angles in float32."""

    base: float

    @classmethod
    def of(cls, config: PretrainedConfig, asked_by: str) -> Self:
        """Those of a model. Raises InvalidValue for models that are not known to turn their keys in this way, and for
        scaled positions, whose frequencies are no powers of a base or change with the length of the stream."""
        expect(
            config.model_type in KINDS,
            f"{asked_by} counts positions of its own, for which keys must be turned back; how is known for "
            f"{', '.join(KINDS)}, not for {config.model_type!r}. Leave the positions as the model gives them.",
        )
        given = getattr(config, "rope_parameters", None) or {}
        kind, part = given.get("rope_type", "default"), given.get("partial_rotary_factor", 1.0)
        expect(
            kind == "default" and part == 1.0,
            f"{asked_by} counts positions of its own, for which a model must turn all channels by unscaled positions; "
            f"this one has rope_type={kind!r}, partial_rotary_factor={part}. Leave the positions as the model gives "
            "them.",
        )
        return cls(float(given["rope_theta"]))

    def back(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (B, T, H, K) as it was before it was turned to positions (B or 1, T). Half precision is widened for it."""
        half = x.shape[-1] // 2
        shares = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angles = positions[..., None, None].float() * (1 / self.base**shares)
        wide = x if x.dtype == torch.float64 else x.float()
        return turn_pairs(wide, -angles).to(x.dtype)
