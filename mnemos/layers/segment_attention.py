"""Attention to the segment so far and to what was kept of the segments before (Transformer-XL)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width
from mnemos.lowering.plan import readable
from mnemos.state import State
from mnemos.state.align import shift_back, shift_to_chunks


@dataclass(frozen=True)
class SegmentAttention(LayerDeclaration):
    """Segment-level recurrence with relative positions (Transformer-XL, arXiv 1901.02860, section 3). In each segment
    of `segment` tokens, with m the last `memory` inputs before it, through which no gradient flows,

        [k, v] = W_kv [stop(m); x],   q = W_q x,   r_d = W_r sinusoid(d)
        score_ij = ((q_i + u) . k_j + (q_i + w) . r_(i-j)) / sqrt(K)       j in the memory, or in the segment up to i
        y_i = W_o sum_j softmax_j(score_ij) v_j

    u and w are learned vectors, one a head. The width must be even.

    segment: tokens. memory: inputs kept from before; 0 for attention within segments only. look_ahead: whether what
    each token was answered is kept too, for a model whose memory looks ahead (`LookAhead`); alone it changes no number,
    and the last block of a model does without, for nothing reads what its memory would be answered.
    """

    segment: int = 64
    memory: int = 64
    look_ahead: bool = False

    def __post_init__(self) -> None:
        expect(
            self.segment >= 1, f"SegmentAttention(segment=) is a number of tokens of at least 1; got {self.segment}."
        )
        expect(self.memory >= 0, f"SegmentAttention(memory=) is a number of tokens of at least 0; got {self.memory}.")
        expect(
            self.memory >= 1 or not self.look_ahead,
            "SegmentAttention(look_ahead=True) needs a memory to look ahead from: memory= of at least 1.",
        )

    def at(self, index: int, depth: int) -> SegmentAttention:
        return self.replace(look_ahead=self.look_ahead and index < depth - 1)

    @property
    def kept(self) -> str:
        return f"the open segment's inputs and the {self.memory} before it"

    def build(self, width: int, heads: int) -> SegmentAttentionLayer:
        return SegmentAttentionLayer(self, width, heads)


class SegmentAttentionLayer(Layer):
    """The layer that `SegmentAttention` describes.

    Its state: `past` (B, memory, width), inputs before the open segment, the newest last; `open` (B, segment, width),
    those of the open segment; `count` (B,) of tokens. With look_ahead, for both the `answers` of attention before W_o
    and `log_sum`, the logarithm of the softmax's denominator, (B, N, H).
    """

    def __init__(self, spec: SegmentAttention, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        expect(width % 2 == 0, f"sinusoids need an even width; got {width}.")
        self.spec, self.width, self.heads, self.head_dim = spec, width, heads, width // heads
        spec.to_json()  # compiled code can only read it
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.past_bias = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.future_bias = nn.Parameter(torch.zeros(heads, self.head_dim)) if spec.look_ahead else None
        self.out = nn.Linear(width, width, bias=False)

    def fresh_state(self) -> State:
        like = self.out.weight
        fresh = {}
        for name, size in (("past", self.spec.memory), ("open", self.spec.segment)):
            fresh[name] = torch.zeros(1, size, self.width, dtype=like.dtype, device=like.device)
            if self.spec.look_ahead:
                wide = torch.float64 if like.dtype == torch.float64 else torch.float32
                fresh[f"{name}.answers"] = torch.zeros_like(fresh[name])
                fresh[f"{name}.log_sum"] = torch.zeros(1, size, self.heads, dtype=wide, device=like.device)
        fresh["count"] = torch.zeros(1, dtype=torch.int64, device=like.device)
        return State(self.owner, fresh, fresh)

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        size, kept, length, count = self.spec.segment, self.spec.memory, x.shape[1], state["count"]
        phase = count % size
        (aligned,), _ = shift_to_chunks([x], phase, lengths, size)
        aligned = self._open_in_front(aligned, state["open"], phase)
        segments = aligned.shape[1] // size
        keys, values = self._entries(state["past"], aligned)
        if segments == 1:  # no more queries than there are tokens
            asked, place = self.query(x)[:, None], (phase[:, None] + torch.arange(length, device=x.device))[:, None]
        else:
            asked, place = self.query(aligned).unflatten(1, (segments, size)), torch.arange(size, device=x.device)
        before = (count - phase)[:, None] + size * torch.arange(segments, device=x.device)  # tokens before each segment
        o, log_sum = self._attend(asked.unflatten(-1, (self.heads, -1)), place, keys, values, before)
        o, log_sum = o.flatten(1, 2).flatten(-2).to(x.dtype), log_sum.flatten(1, 2)
        if segments > 1:
            o, log_sum = shift_back(o, phase, length), shift_back(log_sum, phase, length)

        new = length if lengths is None else lengths
        closed, last = (phase + new) // size, (count + new) % size

        def moved(name: str, tokens: Tensor) -> dict[str, Tensor]:
            """`past` and `open` of inputs, answers or logarithms, from those (B, T, C) of all segments."""
            whole = torch.cat([state["past" + name], tokens.to(state["past" + name].dtype)], 1)
            begin = closed * size
            past = _window(whole, begin, kept)
            past = torch.where((closed > 0)[:, None, None], past.detach(), state["past" + name])
            filled = torch.arange(size, device=x.device) < last[:, None]
            return {
                "past" + name: past,
                "open" + name: torch.where(filled[..., None], _window(whole, begin + kept, size), 0.0),
            }

        entries = moved("", aligned)
        if self.spec.look_ahead:
            for name, value in ((".answers", o), (".log_sum", log_sum)):
                (value,), _ = shift_to_chunks([value.detach()], phase, lengths, size)
                entries |= moved(name, self._open_in_front(value, state["open" + name], phase))
        return self.out(o), state.successor(**entries, count=count + new)

    def refresh(self, m: Tensor, first: Tensor, state: State, opens: Tensor) -> tuple[Tensor, State]:
        """Look-ahead attention of the memory (LaMemo, arXiv 2204.07341): what each of its tokens is answered, now that
        a segment opens.

        m (B, memory, width): the memory's inputs. first (B, 1, width): the segment's first. opens (B,) bool: the rows
        whose segment opens; others keep their state. Each m_i attends to what follows it, up to `first`,

            score_ij = ((q_i + u) . k_j + (q_i + w') . r_(j-i)) / sqrt(K),   j > i

        and the answer o' with logarithm l' is merged with the one it had, o with l: alpha = e^l / (e^l + e^l'),
        o <- alpha o + (1 - alpha) o', l <- log(e^l + e^l'). Returns W_o o and the state, whose memory is now m.
        """
        assert self.future_bias is not None
        kept = self.spec.memory
        q = self.query(m).unflatten(-1, (self.heads, -1))
        following = torch.cat([m[:, 1:], first], 1)
        k, v = self.key_value(following).unflatten(-1, (2, self.heads, -1)).unbind(2)
        place = torch.arange(kept, device=m.device)
        lag = place - place[:, None] + 1  # (i, j): from m_i to the one after j
        o, log_sum = self._softmax(q[:, None], k[:, None], v[:, None], self.future_bias, lag, lag > 0)
        o, log_sum = o[:, 0], log_sum[:, 0]

        old, old_sum = state["past.answers"].unflatten(-1, (self.heads, -1)).to(o.dtype), state["past.log_sum"]
        total = torch.logaddexp(old_sum, log_sum)
        merged = torch.lerp(o, old, torch.exp(old_sum - total)[..., None]).flatten(-2).to(m.dtype)
        answers = {"past.answers": merged.detach(), "past.log_sum": total.detach()}
        return self.out(merged), self.remember(m, state, opens, answers)

    def remember(self, m: Tensor, state: State, opens: Tensor, answers: Mapping[str, Tensor] | None = None) -> State:
        """The state whose memory is m (B, memory, width), with its answers, in the rows of `opens` (B,)."""
        kept = self.spec.memory
        there = torch.arange(kept, device=m.device) >= kept - state["count"][:, None]  # (B, memory)
        changed = (opens[:, None] & there)[..., None]
        entries = {name: state[name] for name in state.fresh}
        for name, new in {"past": m, **(answers or {})}.items():
            entries[name] = torch.where(changed, new.to(entries[name].dtype), entries[name])
        return state.successor(**entries)

    def _open_in_front(self, aligned: Tensor, tokens: Tensor, phase: Tensor) -> Tensor:
        """What the open segment (B, size, C) holds already, before the new tokens of the first segment."""
        size = self.spec.segment
        already = (torch.arange(size, device=aligned.device) < phase[:, None])[..., None]
        front = torch.where(already, tokens.to(aligned.dtype), aligned[:, :size])
        return torch.cat([front, aligned[:, size:]], 1)

    def _entries(self, past: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, segments, memory + size, H, K) that each segment attends to."""
        size, kept = self.spec.segment, self.spec.memory
        own = self.key_value(aligned)
        # Gradients reach the weights through the memory too, but not what was put in.
        before = own if not torch.is_grad_enabled() else self.key_value(aligned.detach())
        whole = torch.cat([self.key_value(past.to(aligned.dtype)), before], 1)
        memory = whole.unfold(1, kept, size)[:, : aligned.shape[1] // size].transpose(-1, -2)
        entries = torch.cat([memory, own.unflatten(1, (-1, size))], 2)
        keys, values = entries.unflatten(-1, (2, self.heads, -1)).unbind(3)
        return keys, values

    def _attend(self, q: Tensor, place: Tensor, keys: Tensor, values: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """q (B, S, Q, H, K) at places (..., Q) of their segments, keys and values (B, S, memory + size, H, K), before
        (B, S) tokens -> answers (B, S, Q, H, K), logarithms of the sums (B, S, Q, H)."""
        kept = self.spec.memory
        slot = torch.arange(keys.shape[2], device=q.device)
        lag = kept + place[..., None] - slot  # (..., Q, memory + size)
        seen = (lag >= 0) & (slot >= kept - before[..., None])[:, :, None]
        return self._softmax(q, keys, values, self.past_bias, lag, seen)

    def _softmax(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lag: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Answers and logarithms of the sums over the entries that are `seen`, at distances `lag` (..., Q, N)."""
        with torch.autocast(q.device.type, enabled=False):
            dtype = self.query.weight.dtype
            most = self.spec.memory + self.spec.segment
            r = self.position(_sinusoids(most, self.width, q.device).to(dtype)).unflatten(-1, (self.heads, -1))
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            q, k, v, r, u, w = (z.to(wide) for z in (q, k, v, r, self.content_bias, bias))
            scores = torch.einsum("bsqhk,bsnhk->bshqn", q + u, k)
            by_lag = torch.einsum("bsqhk,lhk->bshql", q + w, r)
            index = lag.clamp(0, most - 1)
            index = index[(None,) * (4 - index.ndim)].unsqueeze(2).expand(scores.shape)
            scores = (scores + by_lag.gather(-1, index)) / math.sqrt(self.head_dim)
            seen = seen[(None,) * (4 - seen.ndim)].unsqueeze(2)
            scores = scores.masked_fill(~seen, -torch.inf)
            log_sum = torch.logsumexp(scores, -1, keepdim=True)
            o = torch.einsum("bshqn,bsnhk->bsqhk", torch.exp(scores - log_sum), v)
            return o, log_sum[..., 0].transpose(-1, -2)

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        expect(
            isinstance(length, int) and length >= 1,
            f"explain(length=) is a number of tokens of at least 1; got {length!r}.",
        )
        return (
            f"{self.spec}\n  runs by    one softmax a segment over it and the {self.spec.memory} tokens before, all "
            f"segments in parallel\n  costs      {readable(self.flops(length), 1000, 'FLOP')} forward"
        )

    def flops(self, length: int) -> float:
        matrices = sum(p.numel() for n, p in self.named_parameters() if p.ndim == 2 and "bias" not in n)
        most = self.spec.memory + self.spec.segment
        again = 2.0 * self.key_value.weight.numel() * (length + self.spec.memory)
        return length * (2.0 * matrices + 6.0 * most * self.width) + again


def _window(x: Tensor, begin: Tensor, size: int) -> Tensor:
    """`size` tokens of each row of x (B, T, C) from `begin` (B,) on; beyond the end, its last one."""
    index = (begin[:, None] + torch.arange(size, device=x.device)).clamp(max=x.shape[1] - 1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """[sin(d f), cos(d f)] for d < count, f = 10000^(-2i/width), (count, width)."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)
    angle = torch.arange(count, device=device, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
