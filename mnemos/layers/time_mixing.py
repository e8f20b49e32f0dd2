"""RWKV's time mixing: a memory whose inputs blend each token with the one before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import expect
from mnemos.layers.base import Layer, LayerDeclaration, check_width, computed_in
from mnemos.lowering import run_rows
from mnemos.memory import DPLR, GD, Dot, Matrix, Memory
from mnemos.state import State

BLENDS = ("receptance", "key", "value", "decay", "rate", "gate")


@dataclass(frozen=True)
class TimeMixing(LayerDeclaration):
    """The time mixing of RWKV-7 (arXiv 2503.14456):

        x^c_t = x_t + (x_t-1 - x_t) * mu_c                     for each of the six inputs c
        r, k, v = W_r x^r, W_k x^k, W_v x^v
        w = exp(-exp(-1/2) sigmoid(B_w tanh(A_w x^w) + b_w))   decay per channel, in (0.545, 1)
        a = sigmoid(B_a A_a x^a + b_a)                         rate per channel
        u = (k * xi) / |k * xi|,  k~ = k * (1 + (a - 1) * alpha)
        S_t = S_t-1 (Diag(w) - u (a * u)^T) + v k~^T
        p = GroupNorm(S_t r) + (r . (rho * k~)) v
        y = W_o (p * B_g sigmoid(A_g x^g))

    rank, gate_rank: rows of A_w and A_a, and of A_g. Norms, the length of k and the last product are per head. Its
    state holds the memory and the last token's x (B, 1, width).
    """

    rank: int = 32
    gate_rank: int = 64

    def __post_init__(self) -> None:
        expect(self.rank >= 1, f"TimeMixing(rank=) must be at least 1; got {self.rank}.")
        expect(self.gate_rank >= 1, f"TimeMixing(gate_rank=) must be at least 1; got {self.gate_rank}.")

    @property
    def memory(self) -> Memory:
        """S."""
        return Memory(Matrix(), Dot(), DPLR(), GD(rate=1.0))

    @property
    def kept(self) -> str:
        return f"{self.memory.kept}, the last token"

    def build(self, width: int, heads: int) -> TimeMixingLayer:
        return TimeMixingLayer(self, width, heads)


class TimeMixingLayer(Layer):
    """The layer that `TimeMixing` describes."""

    def __init__(self, spec: TimeMixing, width: int, heads: int):
        super().__init__()
        check_width(width, heads)
        self.spec, self.width, self.heads, self.memory = spec, width, heads, spec.memory
        self.blend = nn.Parameter(torch.full((len(BLENDS), width), 0.5))
        self.receptance, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.decay = _low_rank(width, spec.rank, nn.Tanh(), torch.linspace(-6.0, 1.0, width // heads).repeat(heads))
        self.rate = _low_rank(width, spec.rank, nn.Identity(), torch.zeros(width))
        self.gate = _low_rank(width, spec.gate_rank, nn.Sigmoid(), None)
        self.removal_scale = nn.Parameter(torch.full((width,), 0.85))  # xi
        self.replacement_share = nn.Parameter(torch.ones(width))  # alpha
        self.bonus = nn.Parameter(torch.zeros(width))  # rho
        self.norm_gain, self.norm_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    @property
    def memory_sizes(self) -> tuple[int, int, int]:
        return self.heads, self.width // self.heads, self.width // self.heads

    def fresh_state(self) -> State:
        weight = self.out.weight
        dtype, size = computed_in(weight), self.width // self.heads
        wide = self.memory.state_dtype(dtype)
        memory = self.memory.init(1, self.heads, size, size, None, wide, weight.device)
        last = torch.zeros(1, 1, self.width, dtype=dtype, device=weight.device)
        return State(self.owner, {"memory": memory, "last": last}, {"last": last})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        past = torch.cat([state["last"].to(x.dtype), x], 1)
        back = past[:, :-1] - x
        blended = dict(zip(BLENDS, (x + back * mu for mu in self.blend.unbind()), strict=True))
        r, k, v = self.receptance(blended["receptance"]), self.key(blended["key"]), self.value(blended["value"])
        rate = torch.sigmoid(_wide(self.rate(blended["rate"])))
        decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(_wide(self.decay(blended["decay"]))))
        with torch.autocast(x.device.type, enabled=False):  # the memory keeps its own precision
            wide_k = _wide(k)
            unit = F.normalize(self._by_head(wide_k * self.removal_scale), dim=-1)
            written = self._by_head(wide_k * (1 + (rate - 1) * self.replacement_share))
            asked, values, rate = self._by_head(_wide(r)), self._by_head(_wide(v)), self._by_head(rate)
            controls = {"decay": self._by_head(decay), "removal": unit, "replacement": rate * unit}
            o, memory = run_rows(self.memory, asked, written, values, controls, state.child("memory"), lengths)
            bonus = (asked * written * self._by_head(self.bonus)).sum(-1, keepdim=True) * values
            normed = F.layer_norm(o, o.shape[-1:], eps=64e-5)
            p = normed.flatten(-2) * self.norm_gain + self.norm_bias + bonus.flatten(-2)
        y = self.out(p.to(v.dtype) * self.gate(blended["gate"]))
        end = past[:, -1:] if lengths is None else past.gather(1, lengths[:, None, None].expand(-1, 1, self.width))
        return y, state.successor(memory=memory, last=end.to(state["last"].dtype).clone())

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def flops(self, length: int) -> float:
        matrices = sum(p.numel() for n, p in self.named_parameters() if p.ndim == 2 and n != "blend")
        return self.plan(length).flops + 2.0 * matrices * length


def _low_rank(width: int, rank: int, between: nn.Module, bias: Tensor | None) -> nn.Sequential:
    up = nn.Linear(rank, width, bias=bias is not None)
    nn.init.orthogonal_(up.weight, gain=0.1 if bias is not None else 1.0)
    if bias is not None:
        up.bias.data.copy_(bias)
    return nn.Sequential(nn.Linear(width, rank, bias=False), between, up)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()
