"""Resonator networks: which symbols a product was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mnemos.errors import InvalidType, expect
from mnemos.memory.symbolic.binding import bind, bundle, likeness, normal, unbind


@dataclass(frozen=True)
class Factors:
    """What a resonator found. indices (B, F): the entry of each codebook; estimates (B, F, size): the states at the
    end; steps (B,): rounds until the indices changed for the last time; settled (B,): whether they then stayed for
    `patience` rounds."""

    indices: Tensor
    estimates: Tensor
    steps: Tensor
    settled: Tensor


@dataclass(frozen=True)
class Resonator:
    """A resonator network (arXiv 2007.03748, 1906.11684; update="softmax": arXiv 2403.13218). Of s = x_1 * ... * x_F,
    each factor an entry of its own codebook X_f, it keeps an estimate of every factor, at first the bundle of its whole
    codebook, and in each round takes the others out of s and cleans up what is left:

        y = s / (product of the other estimates)
        "outer":          x_f <- g( X_f X_f^* y )
        "least_squares":  x_f <- g( X_f (X_f^* X_f)^-1 X_f^* y )
        "softmax":        x_f <- g( X_f softmax(scale Re(X_f^* y) / size) )

    with g the sign, or z / |z|. A row has settled when its nearest entries have stayed the same for `patience` rounds.

    scale: of "softmax"; some 10 helps, and hundreds freeze the first guess. synchronous: all factors at once from the
    estimates of the round before; otherwise each one from the newest.
    """

    update: Literal["outer", "least_squares", "softmax"] = "softmax"
    scale: float = 10.0
    steps: int = 100
    patience: int = 5
    synchronous: bool = False

    def __post_init__(self) -> None:
        expect(
            self.update in ("outer", "least_squares", "softmax"),
            f'Resonator(update=) is "outer", "least_squares" or "softmax"; got {self.update!r}.',
        )
        expect(math.isfinite(self.scale) and self.scale > 0, f"Resonator(scale=) is positive; got {self.scale}.")
        expect(self.steps >= 1, f"Resonator(steps=) is at least 1; got {self.steps}.")
        expect(self.patience >= 1, f"Resonator(patience=) is at least 1; got {self.patience}.")

    def clean(self, y: Tensor, codebook: Tensor) -> Tensor:
        """One update of an estimate: y (B, size), codebook (k, size) -> (B, size)."""
        if self.update == "softmax":
            weights = torch.softmax(self.scale * likeness(y, codebook), -1).to(y.dtype)
        else:
            weights = y @ codebook.mH
            if self.update == "least_squares":
                weights = torch.linalg.solve(codebook.conj() @ codebook.mT, weights.mT).mT
        return normal(weights @ codebook)

    def factor(self, scene: Tensor, codebooks: Sequence[Tensor]) -> Factors:
        """The factors of scenes (B, size), one of each codebook (k_f, size).

        Raises InvalidType or InvalidValue unless all are of one dtype and size and there is at least one codebook, and
        for a least squares update with more entries than channels.
        """
        self._check(scene, codebooks)
        start = [bundle(symbols).expand_as(scene) for symbols in codebooks]
        estimates = torch.stack(start, 1)
        indices = self._nearest(estimates, codebooks)
        changed = torch.zeros(len(scene), dtype=torch.int64, device=scene.device)
        calm = torch.zeros_like(changed)
        for step in range(1, self.steps + 1):
            later = self._round(scene, estimates, codebooks)
            going = calm < self.patience
            estimates = torch.where(going[:, None, None], later, estimates)
            now = self._nearest(estimates, codebooks)
            moved = (now != indices).any(-1)
            changed = torch.where(moved, step, changed)
            calm = torch.where(moved, 0, calm + 1)
            indices = now
            if not bool((calm < self.patience).any()):
                break
        return Factors(indices, estimates, changed, calm >= self.patience)

    def _round(self, scene: Tensor, estimates: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
        newest = list(estimates.unbind(1))
        known = list(newest)
        for f, symbols in enumerate(codebooks):
            others = (known if self.synchronous else newest)[:f] + known[f + 1 :]
            newest[f] = self.clean(unbind(scene, bind(*others)) if others else scene, symbols)
        return torch.stack(newest, 1)

    @staticmethod
    def _nearest(estimates: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
        found = [likeness(x, symbols).argmax(-1) for x, symbols in zip(estimates.unbind(1), codebooks, strict=True)]
        return torch.stack(found, -1)

    def _check(self, scene: Tensor, codebooks: Sequence[Tensor]) -> None:
        expect(len(codebooks) >= 1, "factor() takes at least one codebook.")
        expect(scene.ndim == 2, f"factor() takes scenes (batch, size); got shape {tuple(scene.shape)}.")
        for symbols in codebooks:
            if symbols.dtype != scene.dtype:
                raise InvalidType(f"scenes and codebooks must share a dtype; got {scene.dtype} and {symbols.dtype}.")
            expect(
                symbols.ndim == 2 and symbols.shape[-1] == scene.shape[-1] and len(symbols) >= 1,
                f"codebooks must be (entries, size) with size {scene.shape[-1]}; got shape {tuple(symbols.shape)}.",
            )
            expect(
                self.update != "least_squares" or len(symbols) <= scene.shape[-1],
                f"the least squares update needs at most size = {scene.shape[-1]} entries; got {len(symbols)}.",
            )
