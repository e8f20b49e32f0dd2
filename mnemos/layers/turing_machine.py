"""A neural Turing machine: a controller that reads and writes rows, and reads back what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.controls import default_rule
from mnemos.layers.token_by_token import TokenByToken, in_turn
from mnemos.memory import Addressed
from mnemos.state import State


@dataclass(frozen=True)
class TuringMachine(LayerDeclaration):
    """A neural Turing machine (arXiv 1410.5401). At every token

        h_t = controller(W_x x_t + W_r r_t-1 + b, h_t-1)
        q, k, v and all controls of the heads = maps of h_t
        r_t = memory(q, k, v)                                  `Addressed`: reads, erases, adds
        y_t = W_o [h_t, r_t] + b_o

    controller: "lstm", or "feedforward", h = tanh(its input), which remembers nothing itself. hidden: channels of h.
    slots, shifts, read_timing: of `Addressed`, of which every head of the layer has one, with rows of width / heads
    channels, a head that writes and one that reads. Strengths are a softplus, gates and erasures a sigmoid, shifts a
    softmax, sharpnesses 1 + softplus.
    """

    slots: int = 128
    shifts: int = 1
    controller: Literal["lstm", "feedforward"] = "lstm"
    hidden: int = 100
    read_timing: Literal["after", "before"] = "before"

    def __post_init__(self) -> None:
        expect(
            self.controller in ("lstm", "feedforward"),
            f'TuringMachine(controller=) is "lstm" or "feedforward"; got {self.controller!r}.',
        )
        expect(self.hidden >= 1, f"TuringMachine(hidden=) must be at least 1; got {self.hidden}.")
        self.memory.to_json()  # raises for the memory's own options

    @property
    def memory(self) -> Addressed:
        """The rows."""
        return Addressed(self.slots, self.shifts, self.read_timing)

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, the controller"

    def build(self, width: int, heads: int) -> TuringMachineLayer:
        return TuringMachineLayer(self, width, heads)


class TuringMachineLayer(TokenByToken):
    """The layer that `TuringMachine` describes. Its state, within `memory`: `tape`, the memory's, `found`, the last r
    (B, width), `hidden` and, of an LSTM, `cell` (B, hidden)."""

    def __init__(self, spec: TuringMachine, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        spec.to_json()  # compiled code can only read it
        self.memory.to_json()
        size, self.recurrent = spec.hidden, spec.controller == "lstm"
        gates = 4 * size if self.recurrent else size
        self.enter = nn.Linear(width, gates)
        self.feedback = nn.Linear(width, gates, bias=False)
        self.again = nn.Linear(size, gates, bias=False) if self.recurrent else None
        self.project = nn.Linear(size, 3 * width)
        row = width // heads
        self.controls = nn.ModuleDict(
            {c.name: default_rule(c, 1).build(size, heads, c.size(row, row)) for c in self.memory.controls}
        )
        weights = self.memory.initial_weights(heads, row, row)
        self.initial = nn.ParameterDict({name: nn.Parameter(weight) for name, weight in weights.items()})
        self.out = nn.Linear(size + width, width)

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def fresh_state(self) -> State:
        device, wide = self.out.weight.device, self.wide
        tape = self.memory.init(1, *self.memory_sizes, dict(self.initial.items()), wide, device)
        sizes = {"found": self.width, "hidden": self.spec.hidden} | ({"cell": self.spec.hidden} if self.again else {})
        fresh = {name: torch.zeros(1, size, dtype=wide, device=device) for name, size in sizes.items()}
        owner = (("controller", self.spec.controller), ("hidden", self.spec.hidden))
        return State(self.owner, {"memory": State(owner, {"tape": tape, **fresh}, fresh)})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        given, memory = self.enter(x), state.child("memory")
        held = not torch.is_grad_enabled() and (x.shape[1] > 1 or lengths is not None)  # the caller keeps its state

        def step(t: int, before: State) -> tuple[Tensor, State]:
            h, cell = self._controlled(given[:, t], before)
            tape = before.child("tape")
            r, tape = self._visited(h, tape.clone() if held else tape)
            entries = {"tape": tape, "found": r, "hidden": h, **({} if cell is None else {"cell": cell})}
            return torch.cat([h, r], -1), before.successor(**entries)

        seen, memory = in_turn(step, x.shape[1], memory, lengths)
        return self.out(seen.to(given.dtype)), state.successor(memory=memory)

    def _controlled(self, given: Tensor, before: State) -> tuple[Tensor, Tensor | None]:
        """h (B, hidden) from what the token brings (B, 4 hidden or hidden); and an LSTM's cell."""
        dtype = given.dtype
        given = given + self.feedback(before["found"].to(dtype))
        if self.again is None:
            return torch.tanh(given.to(before["hidden"].dtype)), None
        gates = (given + self.again(before["hidden"].to(dtype))).to(before["cell"].dtype)
        i, f, o, new = gates.chunk(4, -1)
        cell = torch.sigmoid(f) * before["cell"] + torch.sigmoid(i) * torch.tanh(new)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def _visited(self, h: Tensor, tape: State) -> tuple[Tensor, State]:
        """What the memory answers to h (B, hidden), r (B, width), and its state after."""
        asked = h[:, None].to(self.project.weight.dtype)
        q, k, v = self.project(asked)[:, 0].to(h.dtype).unflatten(-1, (3, self.heads, -1)).unbind(1)
        controls = {name: rule(asked)[:, 0].to(h.dtype) for name, rule in self.controls.items()}
        with torch.autocast(h.device.type, enabled=False):  # the memory keeps its own precision
            r, tape = self.memory.advance(tape, q, k, v, controls)
        return r.flatten(-2), tape

    @property
    def token_flops(self) -> float:
        matrices = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))
        return 2.0 * matrices + self.heads * self.memory.step_flops(*self.memory_sizes[1:], 1)
