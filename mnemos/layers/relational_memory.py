"""Slots that attend to each other and to the token at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.token_by_token import TokenByToken, in_turn
from mnemos.state import State


@dataclass(frozen=True)
class RelationalMemory(LayerDeclaration):
    """The relational memory core (arXiv 1806.01822): a matrix of slots M (S, D), D the layer's width. At every token

        z = W_x x + b_x,   R = [M; z]                                       S + 1 rows
        blocks times:   q, k, v = LN(W R + b), by heads
                        R <- LN(R + softmax(q k^T / sqrt(K)) v),   R <- LN(R + MLP(R))
        M~ = the first S rows of R
        i = sigmoid(U z + U' tanh(M) + input_bias),   f = sigmoid(V z + V' tanh(M) + forget_bias)
        M <- i * tanh(M~) + f * M
        y = W_o [M_1 ... M_S] + b_o

    M starts as the identity, a row a slot. LN goes over all of q, k and v of a row; the MLP, `mlp_layers` linear maps
    with relu in between, is shared by the rows and the blocks, while W and the norms are each block's own.

    gate: "unit" for a gate an element, "memory" for a gate a slot, None for M <- M~.
    """

    slots: int = 8
    blocks: int = 1
    mlp_layers: int = 2
    gate: Literal["unit", "memory"] | None = "unit"
    input_bias: float = 0.0
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        for name in ("slots", "blocks", "mlp_layers"):
            value = getattr(self, name)
            expect(value >= 1, f"RelationalMemory({name}=) must be at least 1; got {value}.")
        expect(
            self.gate in ("unit", "memory", None),
            f'RelationalMemory(gate=) is "unit", "memory" or None; got {self.gate!r}.',
        )

    @property
    def kept(self) -> str:
        return f"{self.slots} slots as wide as the layer"

    def build(self, width: int, heads: int) -> RelationalMemoryLayer:
        return RelationalMemoryLayer(self, width, heads)


class RelationalMemoryLayer(TokenByToken):
    """The layer that `RelationalMemory` describes. Its state: `memory.slots` (B, S, D)."""

    def __init__(self, spec: RelationalMemory, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads = spec, width, heads
        spec.to_json()  # compiled code can only read it
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(spec.blocks))
        self.mlp = nn.ModuleList(nn.Linear(width, width) for _ in range(spec.mlp_layers))
        gates = {"unit": 2 * width, "memory": 2, None: 0}[spec.gate]
        self.input_gates = nn.Linear(width, gates) if gates else None
        self.memory_gates = nn.Linear(width, gates, bias=False) if gates else None
        self.out = nn.Linear(spec.slots * width, width)

    def fresh_state(self) -> State:
        slots = torch.eye(self.spec.slots, self.width, dtype=self.wide, device=self.out.weight.device)[None]
        owner = (("slots", self.spec.slots), ("width", self.width))
        return State(self.owner, {"memory": State(owner, {"slots": slots}, {"slots": slots})})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        z = self.enter(x)
        asked = None if self.input_gates is None else self.input_gates(z)

        def step(t: int, memory: State) -> tuple[Tensor, State]:
            slots = self.step(memory["slots"], z[:, t], None if asked is None else asked[:, t])
            return slots.to(z.dtype), memory.successor(slots=slots)

        slots, memory = in_turn(step, x.shape[1], state.child("memory"), lengths)
        return self.out(slots.flatten(-2)), state.successor(memory=memory)

    def step(self, memory: Tensor, z: Tensor, asked: Tensor | None) -> Tensor:
        """M (B, S, D) after one token: z (B, D) and what it says to the gates (B, 2 D or 2)."""
        rows = torch.cat([memory.to(z.dtype), z[:, None]], 1)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            last = number == len(self.blocks) - 1  # whose row of the token nobody reads
            rows = block(rows, self._mlp, self.spec.slots if last else len(rows[0]))
        new = rows.to(memory.dtype)
        if asked is None or self.memory_gates is None:
            return new
        gates = asked[:, None] + self.memory_gates(torch.tanh(memory).to(z.dtype))
        i, f = gates.to(memory.dtype).chunk(2, -1)
        kept = torch.sigmoid(f + self.spec.forget_bias) * memory
        return torch.sigmoid(i + self.spec.input_bias) * torch.tanh(new) + kept

    def _mlp(self, rows: Tensor) -> Tensor:
        for layer in self.mlp[:-1]:
            rows = F.relu(layer(rows))
        return self.mlp[-1](rows)

    @property
    def token_flops(self) -> float:
        rows = self.spec.slots + 1
        attention = 4.0 * rows * rows * self.width
        per_row = len(self.mlp) * self.width**2 + 3 * self.width**2
        matrices = sum(m.weight.numel() for m in (self.enter, self.out, self.input_gates) if m is not None)
        gates = 0 if self.memory_gates is None else self.memory_gates.weight.numel()
        return self.spec.blocks * (attention + 2.0 * rows * per_row) + 2.0 * (matrices + self.spec.slots * gates)


class _Block(nn.Module):
    """Attention of all rows to all rows."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.project_norm = nn.LayerNorm(3 * width)
        self.attended_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, rows: Tensor, mlp: Callable[[Tensor], Tensor], wanted: int) -> Tensor:
        """The first `wanted` rows after a block: (B, S + 1, D) -> (B, wanted, D)."""
        mixed = self.project_norm(self.project(rows)).unflatten(-1, (3, self.heads, -1)).movedim(2, 0)
        q, k, v = (y.transpose(1, 2) for y in mixed)  # (B, H, rows, K)
        q = q[:, :, :wanted]
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
        found = (weights @ v).transpose(1, 2).flatten(-2)
        rows = self.attended_norm(rows[:, :wanted] + found)
        return self.mlp_norm(rows + mlp(rows))
