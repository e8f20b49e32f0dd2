"""How well a model predicts held-out text: bits per byte."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mnemos.errors import InvalidValue
from mnemos.evaluate.estimate import Estimate, estimate
from mnemos.evaluate.result import Result
from mnemos.evaluate.windows import Model, held_out_bits
from mnemos.train.corpus import Corpus


@dataclass(frozen=True)
class BitsPerByte(Result):
    """Bits that the model needs for each byte of text it has not seen; 8 is no knowledge, lower is better."""

    value: Estimate
    by_window: tuple[float, ...]
    length: int

    def minus(self, other: BitsPerByte) -> Estimate:
        """The difference to another model, window by window, so that hard and easy windows cancel.

        Raises:
            InvalidValue: the two were not measured on the same windows.
        """
        if (len(self.by_window), self.length) != (len(other.by_window), other.length):
            raise InvalidValue(
                f"only results on the same windows can be compared; got {len(self.by_window)} windows of "
                f"{self.length} tokens and {len(other.by_window)} of {other.length}. Measure both alike."
            )
        return estimate(torch.tensor(self.by_window) - torch.tensor(other.by_window))


def bits_per_byte(
    model: Model, corpus: Corpus, *, length: int, tokens: int = 131072, separate: bool = False
) -> BitsPerByte:
    """`mean of -log2 p(token | what came before it in the window) / bytes per token` over held-out windows.

    length: tokens of a window, each starting with an empty memory; tokens: how many to read in all, spread
    evenly over the held-out text; separate: whether the memory starts afresh with every document.

    Raises:
        DataError: the held-out text is too short for two windows.
    """
    needed = held_out_bits(model, corpus, "bits per byte", length=length, tokens=tokens, separate=separate)
    by_window = needed.mean(1) / corpus.bytes_per_token
    return BitsPerByte(estimate(by_window), tuple(by_window.tolist()), length)
