"""The interface of a summary: by what an episode is found."""

from __future__ import annotations

from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.control import Control


class Summary(Declaration):
    """An episode's summary is a weighted sum of its tokens' cues, and a query's match with it is a dot product, all
    heads together:  summary_e = sum_j a_j c_j,   match_e = sum_h asked_h . summary_eh / sqrt(H K).

    Cues are the keys, and what asks is the query, unless a rule brings its own along as controls.
    """

    watches: bool = False
    """Whether it looks at the attention that tokens received while they were in the window."""

    own: bool = False
    """Whether cues are the control "address" and what asks is the control "asking"."""

    @property
    def write_controls(self) -> tuple[Control, ...]:
        """What it needs with every token that is written."""
        return ()

    @property
    def read_controls(self) -> tuple[Control, ...]:
        """What it needs with every query."""
        return ()

    def weights(self, episode: Tensor, size: Tensor, slot: Tensor, received: Tensor | None) -> Tensor:
        """a_j (B, N) for entries of the episodes numbered `episode` (B, N), which have `size` (B, N) tokens; slot
        (B, N) grows with the position. Where `episode` is 0 it does not matter."""
        raise NotImplementedError
