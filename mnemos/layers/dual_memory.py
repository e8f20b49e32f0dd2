"""A working memory that tokens compete for, and a long-term memory that it is merged into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import LayerDeclaration, check_width
from mnemos.layers.token_by_token import TokenByToken
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


@dataclass(frozen=True)
class DualMemory(LayerDeclaration):
    """The memory module of PMI (arXiv 2310.09297): slots W (S, D) of working memory, segments L (G, S, D) of long-term
    memory. With one attention of the heads, Att(X, Y) = softmax(Q X (K Y)^T) V Y without a scale, or Att_k, which sets
    all but the `top` largest weights of a row to zero, for the tokens X = W_x x + b_x of a chunk:

        write     R = LN(W + Att_k(W, X)),  R <- LN(R + relu(A relu(A R)))
                  i, f = U mean_t relu(w * X_t) + V tanh(W);   W <- sigmoid(i) * tanh(R) + sigmoid(f + 1) * W
                  L_mn <- LN(L_mn + (sum of L_mn) R_n)
        read      y = mix P + (1 - mix) Att(Att_k(X, mean_m L_m), P),   P = Att(X, W)

    Tokens read the memories as the chunks before theirs left them, and of their own chunk, in the last attention, only
    the tokens up to their own: so the layer is causal. W starts as the identity, L uniform in [0, 1).

    slots, segments: S and G. chunk: tokens that compete for the slots.
    """

    slots: int = 8
    segments: int = 5
    top: int = 5
    chunk: int = 16
    mix: float = 0.7

    def __post_init__(self) -> None:
        for name in ("slots", "segments", "top", "chunk"):
            value = getattr(self, name)
            expect(value >= 1, f"DualMemory({name}=) must be at least 1; got {value}.")
        expect(0 <= self.mix <= 1, f"DualMemory(mix=) lies in [0, 1]; got {self.mix}.")

    @property
    def kept(self) -> str:
        return f"{self.slots} slots, {self.segments} long-term segments of as many, the open chunk"

    def build(self, width: int, heads: int) -> DualMemoryLayer:
        return DualMemoryLayer(self, width, heads)


class DualMemoryLayer(TokenByToken):
    """The layer that `DualMemory` describes.

    Its state: `memory.slots` (B, S, D), `memory.segments` (B, G, S, D), `open` (B, chunk, D), the tokens of the open
    chunk, and `count` (B,) of tokens.
    """

    start: Tensor

    def __init__(self, spec: DualMemory, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads = spec, width, heads
        self.runs_by = f"a loop over chunks of {spec.chunk} tokens; no other parallel form is known"
        spec.to_json()  # compiled code can only read it
        self.enter = nn.Linear(width, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mlp = nn.Linear(width, width)
        self.attended_norm, self.mlp_norm, self.long_norm = (nn.LayerNorm(width) for _ in range(3))
        self.summary = nn.Parameter(torch.ones(width))  # w
        self.input_gates, self.memory_gates = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.register_buffer("start", torch.rand(spec.segments, spec.slots, width))

    def fresh_state(self) -> State:
        spec, device = self.spec, self.mlp.weight.device
        memory = {
            "slots": torch.eye(spec.slots, self.width, dtype=self.wide, device=device)[None],
            "segments": self.start[None].to(self.wide),
        }
        fresh = {
            "open": torch.zeros(1, spec.chunk, self.width, dtype=self.dtype, device=device),
            "count": torch.zeros(1, dtype=torch.int64, device=device),
        }
        owner = (("slots", spec.slots), ("segments", spec.segments), ("width", self.width))
        return State(self.owner, {"memory": State(owner, memory, memory), **fresh}, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        size, count, length = self.spec.chunk, state["count"], x.shape[1]
        phase = count % size
        (tokens,), _ = shift_to_chunks([self.enter(x)], phase, lengths, size)
        earlier = torch.arange(size, device=x.device) < phase[:, None]
        opened = torch.where(earlier[:, :, None], state["open"].to(tokens.dtype), tokens[:, :size])
        chunks = torch.cat([opened, tokens[:, size:]], 1).unflatten(1, (-1, size))  # (B, N, chunk, D)
        full = (phase + (length if lengths is None else lengths)) // size

        memory = state.child("memory")
        slots, segments = memory["slots"], memory["segments"]
        causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        outputs = []
        for number in range(chunks.shape[1]):
            chunk = chunks[:, number]
            outputs.append(self.read(chunk, slots, segments, causal))
            new_slots, new_segments = self.write(chunk, slots, segments)
            complete = (number < full)[:, None, None]
            slots = torch.where(complete, new_slots, slots)
            segments = torch.where(complete[..., None], new_segments, segments)
        y = shift_back(torch.cat(outputs, 1), phase, length)

        end = count + (length if lengths is None else lengths)
        last = chunks[torch.arange(len(count), device=x.device), full.clamp(max=chunks.shape[1] - 1)]
        left = torch.arange(size, device=x.device) < (end % size)[:, None]
        open_ = torch.where(left[:, :, None], last, 0.0).to(state["open"].dtype)
        return y, state.successor(memory=memory.successor(slots=slots, segments=segments), open=open_, count=end)

    def perceive(self, x: Tensor, slots: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The paper's layer on a whole set at once, which it writes before it reads: x (B, T, D), slots (B, S, D) and
        segments (B, G, S, D) to y (B, T, D) and the new slots and segments. It is not causal."""
        tokens = self.enter(x)
        slots, segments = self.write(tokens, slots, segments)
        return self.read(tokens, slots, segments, None), slots, segments

    def write(self, tokens: Tensor, slots: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and segments after the tokens (B, T, D)."""
        held = slots.to(tokens.dtype)
        rows = self.attended_norm(held + self._attend(held, tokens, self.spec.top))
        rows = self.mlp_norm(rows + F.relu(self.mlp(F.relu(self.mlp(rows)))))
        told = self.input_gates(F.relu(self.summary.to(tokens.dtype) * tokens).mean(1))
        gates = told[:, None] + self.memory_gates(torch.tanh(slots).to(tokens.dtype))
        i, f = gates.to(slots.dtype).chunk(2, -1)
        wide = rows.to(slots.dtype)
        merged = segments + segments.sum(-1, keepdim=True) * wide[:, None]
        new = torch.sigmoid(i) * torch.tanh(wide) + torch.sigmoid(f + 1) * slots
        return new, self.long_norm(merged.to(tokens.dtype)).to(slots.dtype)

    def read(self, tokens: Tensor, slots: Tensor, segments: Tensor, seen: Tensor | None) -> Tensor:
        """What the memories say to the tokens (B, T, D), which ask each other as far as `seen` (T, T) lets them."""
        present = self._attend(tokens, slots.to(tokens.dtype))
        past = self._attend(tokens, segments.mean(1).to(tokens.dtype), self.spec.top)
        return self.spec.mix * present + (1 - self.spec.mix) * self._attend(past, present, seen=seen)

    def _attend(self, x: Tensor, y: Tensor, top: int | None = None, seen: Tensor | None = None) -> Tensor:
        """Att(x, y), x (B, n, D), y (B, m, D); only the `top` largest weights count."""
        q, k, v = (
            m(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for m, z in ((self.query, x), (self.key, y), (self.value, y))
        )
        scores = q @ k.mT
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        weights = torch.softmax(scores, -1)
        if top is not None and top < weights.shape[-1]:
            best = weights.topk(top, -1).indices
            weights = torch.zeros_like(weights).scatter(-1, best, weights.gather(-1, best))
        return (weights @ v).transpose(1, 2).flatten(-2)

    @property
    def token_flops(self) -> float:
        slots, chunk, square = self.spec.slots, self.spec.chunk, float(self.width**2)
        maps = 8 + (9 * slots + 2) / chunk  # of a token, and of the slots once a chunk
        return 2.0 * square * maps + 4.0 * self.width * (3 * slots + chunk)
