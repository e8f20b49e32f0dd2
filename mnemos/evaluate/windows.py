"""The bits that a model needs for every token of windows of held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnemos.train.corpus import Corpus
from mnemos.train.sampler import held_out_windows, in_batches

Model = Callable[..., tuple[Tensor, Any]]
"""`model(tokens, state) -> (logits, state)`, state None at the start; a `LanguageModel` is one.

Where documents are separate it is called with `reset=` as well."""

PIECE = 2048  # tokens run at once: longer windows go through in pieces, so the memory needed stays bounded
BATCH_TOKENS = 16384  # tokens in one call, over all windows of a batch


def held_out_bits(model: Model, corpus: Corpus, what: str, *, length: int, tokens: int, separate: bool) -> Tensor:
    """Bits (windows, length) for each next token of windows spread over the held-out text.

    Every window starts with an empty memory. A progress bar named `what` shows the way.
    """
    from tqdm import tqdm

    windows = held_out_windows(corpus, length, tokens, separate)
    size = max(1, BATCH_TOKENS // length)
    parts = []
    with (
        measuring(model),
        tqdm(total=len(windows), desc=what, unit="window", leave=False, disable=None) as bar,
    ):
        for batch in in_batches(windows, size):
            parts.append(bits(model, batch.tokens, batch.targets, batch.reset))
            bar.update(len(batch.tokens))
    return torch.cat(parts)


def bits(model: Model, tokens: Tensor, targets: Tensor, reset: Tensor | None = None) -> Tensor:
    """Bits (batch, time) on the CPU that `model` needs for `targets` as it reads `tokens`."""
    device, state, parts = device_of(model), None, []
    for begin in range(0, tokens.shape[1], PIECE):
        now = slice(begin, begin + PIECE)
        options = {} if reset is None else {"reset": reset[:, now].to(device)}
        logits, state = model(tokens[:, now].to(device), state, **options)
        parts.append(token_bits(logits, targets[:, now].to(device)))
    return torch.cat(parts, 1)


def token_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """`-log2 p(target)` (batch, time) as float32 on the CPU, from logits (batch, time, vocabulary)."""
    nats = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return nats.view(targets.shape).cpu() / math.log(2)


def device_of(model: Model) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


@contextmanager
def measuring(model: Model) -> Iterator[None]:
    """No gradients, and a module in evaluation mode; put back afterwards."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)
