"""Networks whose answers are places of their input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.models.network import NetworkDeclaration

TILE = 2**22
"""Numbers of the additive scores' inner layer that are held at once."""


def _check_pointer(owner: str, hidden: int, score: str, clip: float | None) -> None:
    """Raises InvalidValue for a pointer that cannot be."""
    expect(hidden >= 1, f"{owner}(hidden=) must be at least 1; got {hidden}.")
    expect(score in ("additive", "dot"), f'{owner}(score=) is "additive" or "dot"; got {score!r}.')
    expect(clip is None or clip > 0, f"{owner}(clip=) must be positive, or None; got {clip}.")


class Pointer(nn.Module):
    """A distribution over memories e_1 ... e_n for a state d (arXiv 1506.03134): p = softmax_j(u_j),

        "additive":  u_j = v . tanh(W_1 e_j + W_2 d)
        "dot":       u_j = (W_1 e_j) . (W_2 d) / sqrt(h)        (attention weights, used as the answer)

    clip: the scores become clip tanh(u); None leaves them.
    """

    def __init__(self, hidden: int, *, score: Literal["additive", "dot"] = "additive", clip: float | None = None):
        super().__init__()
        _check_pointer("Pointer", hidden, score, clip)
        self.score, self.clip = score, clip
        self.keys, self.queries = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.weight = nn.Parameter(torch.empty(hidden).uniform_(-0.08, 0.08)) if score == "additive" else None

    def forward(self, memories: Tensor, states: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, m, n) of memories (B, n, h) for states (B, m, h). allowed: (B, m or 1, n) bool, where
        False has probability 0; a state with none allowed gets -inf everywhere."""
        return self.asked(self.keys(memories), states, allowed)

    def asked(self, keys: Tensor, states: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`forward` for keys W_1 e (B, n, h) that are kept from step to step."""
        queries = self.queries(states)
        if self.weight is None:
            scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        else:
            rows = max(1, TILE // max(keys.numel(), 1))
            weight = self.weight
            tiles = [torch.tanh(keys[:, None] + part[:, :, None]) @ weight for part in queries.split(rows, 1)]
            scores = torch.cat(tiles, 1)
        if self.clip is not None:
            scores = self.clip * torch.tanh(scores)
        if allowed is None:
            return torch.log_softmax(scores, -1)
        none = ~allowed.any(-1, keepdim=True)
        found = torch.log_softmax(scores.masked_fill(~(allowed | none), -torch.inf), -1)
        return found.masked_fill(none, -torch.inf)


@dataclass(frozen=True)
class PointerNetworkSpec(NetworkDeclaration):
    """A pointer network (arXiv 1506.03134): an encoder turns the inputs x_1 ... x_n into memories e_j, an LSTM decoder
    takes the input that was pointed to last, and a `Pointer` gives the next place.

    inputs: channels of an input. hidden: channels of e and of the decoder. encoder: "lstm" reads the inputs in their
    order, and the decoder goes on from its last state; "each" takes e_j = tanh(W x_j + b), without an order, and the
    decoder starts from their mean. end: whether there is a further place n, a learned memory behind the inputs, that
    ends a row. score, clip: of the `Pointer`.
    """

    inputs: int
    hidden: int = 256
    encoder: Literal["lstm", "each"] = "lstm"
    end: bool = True
    score: Literal["additive", "dot"] = "additive"
    clip: float | None = None

    def __post_init__(self) -> None:
        expect(self.inputs >= 1, f"PointerNetworkSpec(inputs=) must be at least 1; got {self.inputs}.")
        expect(
            self.encoder in ("lstm", "each"),
            f'PointerNetworkSpec(encoder=) is "lstm" or "each"; got {self.encoder!r}.',
        )
        _check_pointer("PointerNetworkSpec", self.hidden, self.score, self.clip)

    @property
    def kept(self) -> str:
        return f"{self.hidden} numbers for every input, and the decoder's state"

    def build(self) -> PointerNetwork:
        return PointerNetwork(self)

    def example(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Six inputs, and all of their places in a random order."""
        points = torch.randn(batch, 6, self.inputs, generator=generator)
        return points, torch.rand(batch, 6, generator=generator).argsort(1)


class PointerNetwork(nn.Module):
    """What a `PointerNetworkSpec` declares."""

    def __init__(self, spec: PointerNetworkSpec):
        super().__init__()
        self.spec, inputs, hidden = spec, spec.inputs, spec.hidden
        self.pointer = Pointer(hidden, score=spec.score, clip=spec.clip)
        self.reader = nn.LSTM(inputs, hidden, batch_first=True) if spec.encoder == "lstm" else None
        self.each = nn.Linear(inputs, hidden) if spec.encoder == "each" else None
        self.decoder = nn.LSTM(inputs, hidden, batch_first=True)
        self.start = nn.Parameter(torch.empty(inputs).uniform_(-0.08, 0.08))
        self.end = nn.Parameter(torch.empty(hidden).uniform_(-0.08, 0.08)) if spec.end else None

    def forward(self, points: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, m, places) of every answer, given the ones before it in `targets`.

        points: (B, n, inputs). targets: (B, m) int64, places in [0, n), n for the end, -1 behind it. lengths: (B,) of
        rows with fewer than n inputs; what lies beyond has probability 0. There are n + 1 places, n without an end.
        The loss is `nll_loss` of it with ignore_index=-1. Raises InvalidType or InvalidValue for anything else.
        """
        lengths = self._checked(points, lengths)
        places = points.shape[1] + (self.end is not None)
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
            given = getattr(targets, "dtype", type(targets).__name__)
            raise InvalidType(f"targets must be an int64 tensor; got {given}.")
        if targets.ndim != 2 or targets.shape[0] != points.shape[0]:
            raise InvalidValue(f"targets must be (batch, answers); got shape {tuple(targets.shape)}.")
        if targets.numel() and not -1 <= int(targets.min()) <= int(targets.max()) < places:
            raise InvalidValue(f"targets are places in [0, {places}), or -1; got {targets.unique().tolist()}.")
        keys, state, allowed = self.encoded(points, lengths)
        if targets.shape[1] == 0:
            return points.new_zeros(*targets.shape, places)
        states, _ = self.decoder(self._pointed(points, targets[:, :-1]), state)
        return self.pointer.asked(keys, states, allowed[:, None])

    @torch.no_grad()
    def decode(
        self,
        points: Tensor,
        steps: int | None = None,
        lengths: Tensor | None = None,
        *,
        beam: int = 1,
        repeat: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The likeliest answers found, (B, steps), and their log-probabilities (B,).

        steps: how many at most; None for as many as there are inputs, and the end. beam: partial answers kept at every
        step; 1 is greedy. repeat: whether an input may be pointed to twice. Behind the end stands n.
        """
        lengths = self._checked(points, lengths)
        batch, number = points.shape[:2]
        ends = self.end is not None
        steps = number + ends if steps is None else steps
        expect(beam >= 1, f"decode(beam=) must be at least 1; got {beam}.")
        expect(steps >= 1, f"decode(steps=) must be at least 1; got {steps}.")
        expect(
            repeat or ends or steps <= int(lengths.min()),
            f"decode: {steps} different inputs are wanted of a row that has {int(lengths.min())}; choose fewer steps, "
            "or repeat=True.",
        )
        keys, state, allowed = self.encoded(points, lengths)
        places = keys.shape[1]
        # One beam at first; from then on rows (B * beam) that go on from `parents`.
        taken = points.new_zeros(batch, 1, 0).long()
        total = points.new_zeros(batch, 1)
        open_ = allowed[:, None]  # (B, beams, places)
        for _ in range(steps):
            beams = taken.shape[1]
            flat = points.repeat_interleave(beams, 0)
            given = self._pointed(flat, taken.flatten(0, 1))[:, -1:]
            states, state = self.decoder(given, state)
            allowed_now = open_.flatten(0, 1)[:, None]
            found = self.pointer.asked(keys.repeat_interleave(beams, 0), states, allowed_now)[:, 0]
            found = found.unflatten(0, (batch, beams))
            if ends and taken.shape[2]:
                over = taken[:, :, -1] == number
                stay = torch.full_like(found, -torch.inf)
                stay[..., number] = 0
                found = torch.where(over[..., None], stay, found)
            scores = (total[..., None] + found).flatten(1)
            total, best = scores.topk(min(beam, scores.shape[1]), 1)
            parent, place = best // places, best % places
            rows = parent + beams * torch.arange(batch, device=points.device)[:, None]
            h, c = (x.index_select(1, rows.flatten()) for x in state)
            state = (h, c)
            taken = torch.cat([taken.flatten(0, 1)[rows], place[..., None]], 2)
            open_ = open_.flatten(0, 1)[rows]
            if not repeat:
                open_ = open_ & ~nn.functional.one_hot(place, places).bool()
        return taken[:, 0], total[:, 0]

    def encoded(self, points: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Keys W_1 e of all places (B, places, h), the decoder's first state, and which places there are
        (B, places)."""
        real = torch.arange(points.shape[1], device=points.device) < lengths[:, None]
        if self.reader is not None:
            packed = nn.utils.rnn.pack_padded_sequence(points, lengths.cpu(), batch_first=True, enforce_sorted=False)
            out, state = self.reader(packed)
            memories, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=points.shape[1])
        else:
            assert self.each is not None
            memories = torch.tanh(self.each(points))
            mean = torch.where(real[:, :, None], memories, 0.0).sum(1) / lengths[:, None].to(memories.dtype)
            state = (mean[None], torch.zeros_like(mean)[None])
        if self.end is not None:
            memories = torch.cat([memories, self.end.expand(len(points), 1, -1)], 1)
            real = torch.cat([real, real.new_ones(len(points), 1)], 1)
        return self.pointer.keys(memories), state, real

    def _pointed(self, points: Tensor, places: Tensor) -> Tensor:
        """What the decoder is given: the start, then the inputs (B, m + 1, inputs) at these places (B, m); behind the
        end, the last input, which nobody looks at."""
        start = self.start.expand(len(points), 1, -1)
        at = places.clamp(0, points.shape[1] - 1)[:, :, None].expand(-1, -1, self.spec.inputs)
        return torch.cat([start, points.gather(1, at)], 1)

    def _checked(self, points: Tensor, lengths: Tensor | None) -> Tensor:
        if not isinstance(points, Tensor) or not points.is_floating_point():
            given = getattr(points, "dtype", type(points).__name__)
            raise InvalidType(f"points must be a floating point tensor; got {given}.")
        if points.ndim != 3 or points.shape[-1] != self.spec.inputs or 0 in points.shape:
            raise InvalidValue(
                f"points must be (batch, number, {self.spec.inputs}), none empty; got {tuple(points.shape)}."
            )
        if lengths is None:
            return torch.full((len(points),), points.shape[1], device=points.device)
        if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64 or lengths.shape != points.shape[:1]:
            raise InvalidType(f"lengths must be an int64 tensor of shape ({len(points)},); got {lengths!r}.")
        if not 1 <= int(lengths.min()) <= int(lengths.max()) <= points.shape[1]:
            raise InvalidValue(f"lengths must lie in [1, {points.shape[1]}]; got {lengths.tolist()}.")
        return lengths
