"""Inference over facts whose items stay apart, with as many looks as a question needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.memory.read.base import masked_softmax
from mnemos.models.network import NetworkDeclaration

LEAST_OVERLAP = 1e-6
"""Overlaps of two distributions count as at least this, so that their distance is finite."""


def bhattacharyya(p: Tensor, q: Tensor) -> Tensor:
    """-log sum_i sqrt(p_i q_i) over the last axis: 0 for equal distributions, log(1e6) for those that share nothing."""
    return -torch.log((p * q).sqrt().sum(-1).clamp(LEAST_OVERLAP, 1.0))


class Looks(NamedTuple):
    """What MEMO found after every hop: logits (B, hops, answers), the probability of stopping there (B, hops), the
    expected reward (B, hops), and the weights of the facts (B, hops, heads, facts)."""

    logits: Tensor
    halting: Tensor
    value: Tensor
    weights: Tensor

    def stops(self) -> Tensor:
        """At which hop each row stops, (B,): the first whose probability of stopping exceeds one half, or the last."""
        wants = self.halting > 0.5
        return torch.where(wants.any(1), wants.long().argmax(1), wants.shape[1] - 1)

    def answers(self) -> Tensor:
        """The logits where each row stops, (B, answers)."""
        return self.logits[torch.arange(len(self.logits), device=self.logits.device), self.stops()]


@dataclass(frozen=True)
class MemoSpec(NetworkDeclaration):
    """MEMO (arXiv 2001.10913): recurrent attention over facts i of several items, x_i1 ... x_iS.

        c_i = [W_c x_i1 ... W_c x_iS],   k_i, v_i = W_k c_i, W_v c_i,   u_0 = W_q [W_c y_1 ... W_c y_R]
        w_t = softmax_i(u_t-1 . k_i / sqrt(K)) a head,   u_t = LN(u_t-1 + dropout(W_o sum_i w_ti v_i))
        a_t = W_a relu(W_u u_t)
        z_t = GRU([d(w_t, w_t-1) a head, one-hot t], z_t-1),   halting_t, value_t = sigmoid, linear of relu(W_z z_t)

    with y the items of the question and d the Bhattacharyya distance, 0 at the first hop. The same maps serve all hops.
    The attention learns from the answer alone: no gradient goes through d.

    inputs: channels of an item. items, asked: S and R. answers: logits. width: channels of u. embedding: of W_c x.
    hops: the most looks. halting: channels of z.
    """

    inputs: int
    items: int
    asked: int
    answers: int
    width: int = 64
    embedding: int = 32
    heads: int = 4
    hops: int = 8
    halting: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("inputs", "items", "asked", "answers", "width", "embedding", "heads", "hops", "halting"):
            value = getattr(self, name)
            expect(value >= 1, f"MemoSpec({name}=) is a whole number of at least 1; got {value!r}.")
        expect(
            self.width % self.heads == 0,
            f"MemoSpec(width=) must be a multiple of heads; got width={self.width}, heads={self.heads}.",
        )
        expect(0 <= self.dropout < 1, f"MemoSpec(dropout=) is a probability in [0, 1); got {self.dropout!r}.")

    @property
    def kept(self) -> str:
        return "a key and a value for every fact"

    def build(self) -> Memo:
        return Memo(self)

    def example(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Five facts and a question."""
        facts = torch.randn(batch, 5, self.items, self.inputs, generator=generator)
        return facts, torch.randn(batch, self.asked, self.inputs, generator=generator)


class Memo(nn.Module):
    """What a `MemoSpec` declares."""

    def __init__(self, spec: MemoSpec):
        super().__init__()
        self.spec, embedding, width = spec, spec.embedding, spec.width
        self.item = nn.Linear(spec.inputs, embedding, bias=False)
        self.key, self.value = (nn.Linear(spec.items * embedding, width, bias=False) for _ in range(2))
        self.query = nn.Linear(spec.asked * embedding, width, bias=False)
        self.out, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(spec.dropout)
        self.hidden, self.answer = nn.Linear(width, width), nn.Linear(width, spec.answers)
        self.policy = nn.GRUCell(spec.heads + spec.hops, spec.halting)
        self.policy_hidden, self.policy_out = nn.Linear(spec.halting, spec.halting), nn.Linear(spec.halting, 2)

    def forward(self, facts: Tensor, question: Tensor, real: Tensor | None = None) -> Looks:
        """What is found after every hop. facts: (B, facts, items, inputs); question: (B, asked, inputs); real:
        (B, facts) bool, False where there is no fact. Raises InvalidType or InvalidValue for anything else."""
        self._check(facts, question, real)
        told = self.item(facts).flatten(-2)
        keys, values = (m(told).unflatten(-1, (self.spec.heads, -1)).transpose(1, 2) for m in (self.key, self.value))
        u = self.query(self.item(question).flatten(-2))
        seen = facts.new_ones(facts.shape[:2], dtype=torch.bool) if real is None else real
        z = u.new_zeros(len(u), self.policy.hidden_size)
        before: Tensor | None = None
        found: list[tuple[Tensor, ...]] = []
        for hop in range(self.spec.hops):
            asked = u.unflatten(-1, (self.spec.heads, -1))[:, :, None]  # (B, heads, 1, K)
            scores = asked @ keys.mT / math.sqrt(keys.shape[-1])
            weights = masked_softmax(scores, seen[:, None, None])
            u = self.norm(u + self.dropout(self.out((weights @ values).flatten(1))))
            now = weights[:, :, 0].detach()
            moved = torch.zeros_like(now[..., 0]) if before is None else bhattacharyya(now, before)
            at = F.one_hot(torch.full((len(u),), hop, device=u.device), self.spec.hops).to(u.dtype)
            z, before = self.policy(torch.cat([moved, at], -1), z), now
            stop, value = self.policy_out(F.relu(self.policy_hidden(z))).unbind(-1)
            found.append((self.answer(F.relu(self.hidden(u))), torch.sigmoid(stop), value, weights[:, :, 0]))
        return Looks(*(torch.stack(of_hops, 1) for of_hops in zip(*found, strict=True)))

    def _check(self, facts: Tensor, question: Tensor, real: Tensor | None) -> None:
        for name, x in (("facts", facts), ("question", question)):
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise InvalidType(
                    f"{name} must be a floating point tensor; got {getattr(x, 'dtype', type(x).__name__)}."
                )
        if facts.ndim != 4 or facts.shape[2:] != (self.spec.items, self.spec.inputs):
            raise InvalidValue(
                f"facts must be (batch, facts, {self.spec.items}, {self.spec.inputs}); got {tuple(facts.shape)}."
            )
        if question.shape != (len(facts), self.spec.asked, self.spec.inputs):
            wanted = (len(facts), self.spec.asked, self.spec.inputs)
            raise InvalidValue(f"question must have shape {wanted}; got {tuple(question.shape)}.")
        if real is not None and (real.dtype != torch.bool or real.shape != facts.shape[:2]):
            raise InvalidValue(f"real must be a boolean tensor of shape {tuple(facts.shape[:2])}; got {real!r}.")


def memo_loss(
    looks: Looks,
    targets: Tensor,
    *,
    policy: float = 1.0,
    value: float = 0.5,
    hops: float = 0.01,
    stops: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of MEMO's answers and of its halting by REINFORCE (arXiv 2001.10913), and where each row stopped (B,).

        cross entropy at the stop + policy * L_p + value * L_v - hops * sum_t halting_t
        L_p = -sum_t (r - value_t) log P(what was done at t),   L_v = sum_t (r - value_t)^2      up to the stop

    with the reward r = 1 for a right answer, 0 for a wrong one; L_p leaves value_t alone. targets: (B,) int64. stops:
    (B,) hops to stop at; None draws them from the probabilities. All terms are means over the rows.
    """
    halting, rows = looks.halting, torch.arange(len(targets), device=targets.device)
    number = halting.shape[1]
    if stops is None:
        drawn = torch.rand_like(halting) < halting.detach()
        drawn[:, -1] = True
        stops = drawn.long().argmax(1)
    logits = looks.logits[rows, stops]
    reward = (logits.argmax(-1) == targets).to(halting.dtype)[:, None]
    at = torch.arange(number, device=targets.device)
    gone_on, stopped = at < stops[:, None], at == stops[:, None]
    chosen = torch.where(gone_on, torch.log1p(-halting.clamp(max=1 - 1e-6)), torch.log(halting.clamp(min=1e-6)))
    chosen = torch.where((gone_on | stopped) & (at < number - 1), chosen, 0.0)  # at the last hop there is no choice
    live = (gone_on | stopped).to(halting.dtype)
    l_policy = -((reward - looks.value.detach()) * chosen).sum(1).mean()
    l_value = (live * (reward - looks.value).square()).sum(1).mean()
    answer = F.cross_entropy(logits, targets)
    return answer + policy * l_policy + value * l_value - hops * halting.sum(1).mean(), stops
