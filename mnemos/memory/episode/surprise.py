"""Episodes that begin where something unexpected comes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.control import Control, Controls
from mnemos.memory.episode.boundary import Boundary
from mnemos.memory.episode.rounding import MARGIN


@dataclass(frozen=True)
class Surprise(Boundary):
    """EM-LLM (arXiv 2407.09450): an episode begins at a token whose surprise s_t lies far above the last ones,

        s_t > mean + threshold * std,   both over s_{t-span} .. s_{t-1}, std that of the population

    and by more than rounding. The first token of all has no surprise.

    of: "control": s_t comes with the token, as the control "surprise" (the mean over the heads); the paper's is
    -log p(x_t | x_<t). "keys": s_t = 1 - cos(k_t, k_{t-1}), the keys of all heads side by side; it needs nothing from
    outside. shortest, longest: bounds on the number of tokens, counted between boundaries as they were found.
    refine: move each boundary back to the place that best parts the two episodes around it (`refine_boundaries`), once
    the end of the second is known, by no more than `longest` tokens.
    """

    threshold: float = 1.0
    span: int = 64
    shortest: int = 8
    longest: int = 128
    of: Literal["control", "keys"] = "keys"
    refine: Literal["modularity", "conductance"] | None = None

    def __post_init__(self) -> None:
        expect(self.span >= 1, f"Surprise(span=) is a number of tokens of at least 1; got {self.span}.")
        expect(self.shortest >= 1, f"Surprise(shortest=) is a number of tokens of at least 1; got {self.shortest}.")
        expect(
            self.longest >= self.shortest,
            f"Surprise(longest=) must be at least shortest={self.shortest}; got {self.longest}.",
        )
        expect(self.of in ("control", "keys"), f'Surprise(of=) is "control" or "keys"; got {self.of!r}.')
        expect(
            self.refine in ("modularity", "conductance", None),
            f'Surprise(refine=) is "modularity", "conductance" or None; got {self.refine!r}.',
        )

    @property
    def controls(self) -> tuple[Control, ...]:
        if self.of == "keys":
            return ()
        return (Control("surprise", "head", -math.inf, math.inf, "how unexpected the token is"),)

    def surprise(self, keys: Tensor, controls: Controls) -> Tensor:
        if self.of == "control":
            return controls["surprise"].mean(-1)
        keys = keys.flatten(2)
        return 1 - F.cosine_similarity(keys[:, 1:], keys[:, :-1], dim=-1)

    def proposes(self, surprise: Tensor, known: Tensor) -> Tensor:
        # Everything is told against the token's own surprise: where all are equal, nothing is above the mean.
        windows, here = surprise.unfold(1, self.span + 1, 1), known.unfold(1, self.span + 1, 1)
        others = here[..., :-1]
        above = torch.where(others, windows[..., -1:] - windows[..., :-1], 0.0)
        number = others.sum(-1)
        mean = above.sum(-1) / number.clamp(min=1)
        spread = torch.where(others, above - mean[..., None], 0.0).square().sum(-1) / number.clamp(min=1)
        return here[..., -1] & (number > 0) & (mean > self.threshold * spread.sqrt() + MARGIN)
