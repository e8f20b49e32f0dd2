"""What every kind of memory is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mnemos.declaration import Declaration
from mnemos.memory.checks import check_owner, check_query, check_token, check_tokens
from mnemos.memory.control import Control, Controls
from mnemos.memory.patterns import Patterns
from mnemos.state import Owner, State


class AnyMemory(Declaration):
    """Any kind of memory: a pure, frozen, hashable declaration that holds no tensors.

    A new kind gives `kept`, `init`, `step_flops`, `_write` and `_read`, what else differs from here, and its literal
    form in `mnemos.memory.reference`. Axes: B batch, T time, H heads, K key_dim, V value_dim.
    """

    grouped: bool = False
    """Whether its queries may have a multiple of the heads of its keys and values, neighbours sharing one."""

    @property
    def write_controls(self) -> tuple[Control, ...]:
        """What it needs from outside with every token that it writes."""
        return ()

    @property
    def read_controls(self) -> tuple[Control, ...]:
        """What it needs from outside with every query that it reads."""
        return ()

    @property
    def controls(self) -> tuple[Control, ...]:
        """All that it needs from outside, per token."""
        return (*self.write_controls, *self.read_controls)

    @property
    def pairs(self) -> int:
        """Key-value pairs that a token brings along: its k and v hold that many, one behind the other."""
        return 1

    @property
    def kept(self) -> str:
        """What it keeps, in a few words."""
        raise NotImplementedError

    @property
    def growing(self) -> Mapping[str, int]:
        """Those tensors of its state, by dotted name, that get longer: how many tokens it takes to make their second
        axis one place longer. Empty: the state keeps its size."""
        return {}

    @property
    def differentiable(self) -> bool:
        """Fact: gradients pass from its answers to keys or values."""
        return True

    @property
    def patterns(self) -> Patterns:
        """The kind of keys and values that it is made for, where it is made for one."""
        return Patterns()

    def weight_shapes(self, key_dim: int, value_dim: int) -> dict[str, tuple[int, ...]]:
        """The learned tensors of its initial state, per head: name -> shape. Empty: it starts from nothing."""
        return {}

    def initial_weights(
        self, heads: int, key_dim: int, value_dim: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Starting values for those tensors, each (H, *shape)."""
        return {}

    def owner(self, heads: int, key_dim: int, value_dim: int) -> Owner:
        """Whose states these are."""
        return (("memory", self.to_json()), ("heads", heads), ("key_dim", key_dim), ("value_dim", value_dim))

    def init(
        self,
        batch: int,
        heads: int,
        key_dim: int,
        value_dim: int,
        weights: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """A state that has seen nothing. Raises InvalidValue for sizes that cannot be, and for weights other than
        `weight_shapes` names."""
        raise NotImplementedError

    def state_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision of the state beside inputs of `dtype`: float32, or float64 for float64."""
        return torch.float64 if dtype == torch.float64 else torch.float32

    def check_state(self, state: State) -> None:
        """Raises StateError unless the state was made by this declaration."""
        check_owner(state, self.to_json())

    def write(self, state: State, k: Tensor, v: Tensor, controls: Controls | None = None) -> State:
        """The state after one token: k (B, H, K), v (B, H, V), controls by name (B, H) or (B, H, channels).

        With gradients off a state of constant size is updated in place and `state` itself is spent. Raises what
        `mn.run` raises for such mistakes.
        """
        check_token(self, state, k, v, controls or {})
        return self._write(state, k, v, controls or {})

    def write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls | None = None) -> State:
        """The state after several tokens of which none is read: k (B, N, H, K), v (B, N, H, V), controls by name (B, N,
        H) or (B, N, H, channels). Otherwise as `write`, one after the other."""
        check_tokens(self, state, k, v, controls or {})
        return self._write_all(state, k, v, controls or {})

    def read(self, state: State, q: Tensor, controls: Controls | None = None) -> Tensor:
        """What the state answers to q (B, H, K): (B, H, V); or to several queries at once, (B, N, H, K) -> (B, N, H,
        V). controls: `read_controls` by name, (B, H) or (B, N, H) and their channels. Raises what `mn.run` raises for
        such mistakes."""
        check_query(self, state, q, controls or {})
        return self._read(state, q, controls or {})

    def step(
        self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls | None = None
    ) -> tuple[Tensor, State]:
        """One token: `write`, then `read`, so that a token sees itself (or in the memory's own order)."""
        controls, reading = controls or {}, {control.name for control in self.read_controls}
        check_token(self, state, k, v, {name: x for name, x in controls.items() if name not in reading})
        check_query(self, state, q, {name: x for name, x in controls.items() if name in reading})
        return self.advance(state, q, k, v, controls)

    def advance(self, state: State, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> tuple[Tensor, State]:
        """`step` for callers that have checked their inputs."""
        after = self._write(state, k, v, controls)
        return self._read(after, q, controls), after

    def step_flops(self, key_dim: int, value_dim: int, context: int) -> float:
        """Floating point operations of one `step` of one head after `context` tokens, to leading order."""
        raise NotImplementedError

    def _write(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        raise NotImplementedError

    def _write_all(self, state: State, k: Tensor, v: Tensor, controls: Controls) -> State:
        for t in range(k.shape[1]):
            state = self._write(state, k[:, t], v[:, t], {name: x[:, t] for name, x in controls.items()})
        return state

    def _read(self, state: State, q: Tensor, controls: Controls) -> Tensor:
        raise NotImplementedError
