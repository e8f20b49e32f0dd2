"""Text from a model, one token at a time, by streaming."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue
from mnemos.state import State

PIECE = 1024  # prompt tokens read at once, so that a long prompt needs no more memory than this


class Stream:
    """New tokens, one per turn, and the state as it moves along.

    Iterating gives a tensor (batch,) of token ids per turn, on the model's device. `state` has read the
    prompt and every new token but the last one: pass that token as the next prompt to go on exactly here.
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: Tensor,
        *,
        length: int,
        temperature: float = 1.0,
        top_p: float | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        state: State | None = None,
        stop: int | None = None,
    ):
        """See `generate`, which takes the same arguments."""
        vocabulary = int(model.spec.vocabulary)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        late = int(getattr(model.spec, "delay", 0))
        if late:
            raise InvalidValue(
                f"this model's logits come {late} tokens late (layers that wait to attend), and cannot tell what "
                "follows the last token. Build it with delay=0."
            )
        _refuse_bad_tokens(tokens, vocabulary)
        _refuse_bad_settings(length, temperature, top_p, seed, generator)
        if stop is not None and not 0 <= stop < vocabulary:
            raise InvalidValue(f"stop must be a token id in [0, {vocabulary}); got {stop}.")
        device = next(model.parameters()).device
        self.state = None if state is None else state.clone()  # the caller's own must not be spent
        self._run: Callable[..., Any] = model
        self._training = model.training
        self._model = model
        self._next = tokens.to(device)
        self._left = length
        self._temperature, self._top_p, self._stop = temperature, top_p, stop
        self._generator = generator or torch.Generator(device)
        if seed is not None:
            self._generator.manual_seed(seed)
        elif generator is None:
            self._generator.seed()
        self._finished = torch.zeros(tokens.shape[0], dtype=torch.bool, device=device)

    def __iter__(self) -> Stream:
        return self

    @torch.no_grad()
    def __next__(self) -> Tensor:
        if self._left == 0 or bool(self._finished.all()):
            raise StopIteration
        self._left -= 1
        logits = self._read(self._next)
        token = choose(logits, self._temperature, self._top_p, self._generator)
        if self._stop is not None:
            token = torch.where(self._finished, self._stop, token)
            self._finished |= token == self._stop
        self._next = token[:, None]
        return token

    def _read(self, tokens: Tensor) -> Tensor:
        """Read tokens (batch, time); returns the logits (batch, vocabulary) after the last of them."""
        # Rows that are finished read nothing more, so that their state stays where their text ended.
        rest = {"mask": ~self._finished[:, None]} if bool(self._finished.any()) else {}
        self._model.eval()
        try:
            *earlier, last = tokens.split(PIECE, dim=1)
            for piece in earlier:
                _, self.state = self._run(piece, self.state, **rest)
            logits, self.state = self._run(last, self.state, **rest)
        finally:
            self._model.train(self._training)
        return logits[:, -1].float()


def stream(model: nn.Module, tokens: Tensor, *, length: int, **settings: Any) -> Stream:
    """`generate` token by token: an iterator over tensors (batch,), with the state in `.state`."""
    return Stream(model, tokens, length=length, **settings)


def generate(
    model: nn.Module,
    tokens: Tensor,
    *,
    length: int,
    temperature: float = 1.0,
    top_p: float | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    state: State | None = None,
    stop: int | None = None,
) -> tuple[Tensor, State | None]:
    """Continue a text by up to `length` tokens.

    tokens: the prompt, (batch, time) int64, at least one token. length: how many new tokens, at least 0.
    temperature: logits are divided by it; 0 takes the likeliest token each time. top_p: draw only from the
    fewest tokens that have this much probability together, in (0, 1]. seed or generator: repeats the same
    draws; with neither, every call differs. state: what the memory holds already; it is copied, never spent.
    stop: a token that ends a row; an ended row is filled up with it and its state stays as it was.

    Returns the new tokens (batch, at most length), and the state, which has read the prompt and every new
    token but the last: `generate(model, new[:, -1:], state=state, ...)` goes on exactly there. Runs without
    gradients and in evaluation mode. Raises InvalidValue for values out of range, InvalidType for tokens that
    are not int64, StateError for a state of another model.
    """
    run = stream(
        model,
        tokens,
        length=length,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        generator=generator,
        state=state,
        stop=stop,
    )
    new = list(run)
    return torch.stack(new, 1) if new else tokens[:, :0], run.state


def choose(logits: Tensor, temperature: float, top_p: float | None, generator: torch.Generator) -> Tensor:
    """One token id (batch,) for each row of logits (batch, vocabulary)."""
    if not bool(torch.isfinite(logits).any(1).all()) or bool(logits.isnan().any()):
        raise InvalidValue("the model's logits are not finite, so no token can be drawn. Its weights are damaged.")
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / temperature, -1)
    if top_p is not None:
        probabilities = probabilities * nucleus(probabilities, top_p)
    return torch.multinomial(probabilities, 1, generator=generator).flatten()


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Which tokens, (batch, vocabulary) bool, are the fewest whose probabilities sum to at least `top_p`."""
    ordered, index = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = before < top_p
    return torch.zeros_like(kept).scatter(-1, index, kept)


def _refuse_bad_tokens(tokens: Tensor, vocabulary: int) -> None:
    if tokens.dtype != torch.int64:
        raise InvalidType(f"the prompt must be a tensor of int64 token ids; got {tokens.dtype}.")
    if tokens.ndim != 2 or tokens.shape[0] == 0 or tokens.shape[1] == 0:
        raise InvalidValue(
            f"the prompt must have shape (batch, time) with at least one token; got {tuple(tokens.shape)}. "
            "Without a text, start from the end-of-document token."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise InvalidValue(f"token ids must lie in [0, {vocabulary}); the prompt has ids from {low} to {high}.")


def _refuse_bad_settings(
    length: int, temperature: float, top_p: float | None, seed: int | None, generator: torch.Generator | None
) -> None:
    if length < 0:
        raise InvalidValue(f"length counts the new tokens and must be at least 0; got {length}.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidValue(f"temperature must be a number of at least 0 (0: always the likeliest); got {temperature}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidValue(f"top_p must lie in (0, 1]; got {top_p}.")
    if seed is not None and generator is not None:
        raise InvalidValue("both seed and generator were given. Give one of them.")
