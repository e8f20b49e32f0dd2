"""The interface of a boundary rule: where one episode ends and the next begins."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control, Controls


class Boundary(Declaration):
    """Proposes at every token whether a new episode begins there.

    A proposal is taken if the episode so far has at least `shortest` tokens, and an episode of `longest` tokens ends in
    any case. A rule that has a `span` gives every token a surprise, a number that is kept with it, and proposes by the
    surprises of the last `span` tokens. All heads share their episodes. Axes: B rows, T tokens, H heads.
    """

    shortest: int
    longest: int

    span: int = 0
    """How many surprises before a token's own it looks at; 0 for a rule without surprises."""

    refine: Literal["modularity", "conductance"] | None = None
    """By what a boundary is moved back once the next one is known; None to leave it where it is."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """What it needs from outside with every token."""
        return ()

    def surprise(self, keys: Tensor, controls: Controls) -> Tensor:
        """(B, T) for tokens whose keys (B, 1 + T, H, K) follow the key of the token before them; the first
        token of all has none."""
        raise NotImplementedError

    def proposes(self, surprise: Tensor, known: Tensor) -> Tensor:
        """Whether an episode should begin at each of T tokens, (B, T) bool, of their surprises and those of the `span`
        tokens before them, (B, span + T), of which some are not known."""
        return torch.zeros_like(known)
