"""Networks that are no language models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnemos.declaration import Declaration


class NetworkDeclaration(Declaration):
    """A frozen description of a whole network that takes something else than a sequence of tokens, such as facts and a
    question, or that has to be given all of a sequence at once. Adding one: a declaration with `build`, and a module
    whose `spec` it is."""

    @property
    def kept(self) -> str:
        """What it keeps of its input while it answers, in a few words."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The network, with fresh parameters."""
        raise NotImplementedError

    def example(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Small random inputs of the kind that the network takes, in the order of its `forward`; all, and what it
        returns for them, have the batch as their first axis."""
        raise NotImplementedError
