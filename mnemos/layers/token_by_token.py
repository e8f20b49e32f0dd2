"""Layers that have no parallel form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.layers.base import Layer, computed_in
from mnemos.lowering.plan import readable
from mnemos.state import State


class TokenByToken(Layer):
    """A layer whose next state is no sum or product of what the tokens bring, so that they take turns. Subclasses give
    `token_flops`."""

    runs_by = "a loop over tokens; no parallel form is known"

    @property
    def token_flops(self) -> float:
        """Floating point operations of one token, to leading order."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The precision of activations."""
        return computed_in(next(self.parameters()))

    @property
    def wide(self) -> torch.dtype:
        """The precision of what is kept."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        return (
            f"{self.spec}\n  runs by    {self.runs_by}\n"
            f"  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        return self.token_flops * length


def in_turn(
    step: Callable[[int, State], tuple[Tensor, State]], length: int, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """`step(t, state)` for every token: outputs (B, length, ...) and the state after each row's last token."""
    outputs = []
    for t in range(length):
        out, after = step(t, state)
        state = after if lengths is None else chosen(t < lengths, after, state)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def chosen(rows: Tensor, new: State, old: State) -> State:
    """The new state in the rows (B,) that are True, the old one in the others."""
    entries: dict[str, Tensor | State] = {}
    for name, value in new.entries.items():
        if isinstance(value, State):
            entries[name] = chosen(rows, value, old.child(name))
        else:
            entries[name] = torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, old[name])
    return new.successor(**entries)
