"""How a layer makes the controls that its memory declares: one value per token and head (or key channel)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.declaration import Declaration
from mnemos.errors import InvalidValue, expect
from mnemos.memory import Control


class ControlRule(Declaration):
    """x (B, T, width) -> a control (B, T, heads) or, with channels, (B, T, heads, channels).

    of: what x is, the layer's input or, (B, T, heads, key_dim), the query that the memory is asked with, or the
    values, (B, T, heads of values, value_dim).
    """

    of: ClassVar[Literal["input", "query", "value"]] = "input"

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which values it stays."""
        return 0.0, 1.0

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        """The module that computes it, in float32 whatever the model's dtype."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sigmoid(ControlRule):
    """high * sigmoid(W x + bias): `bias` sets where it starts, `high` its upper end."""

    bias: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        expect(self.high > 0, f"Sigmoid(high=) must be positive; got {self.high}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, self.high

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Sigmoid(self, width, heads, channels)


class _Sigmoid(nn.Module):
    def __init__(self, rule: Sigmoid, width: int, heads: int, channels: int | None):
        super().__init__()
        self.high, self.channels = rule.high, channels
        self.linear = nn.Linear(width, heads * (channels or 1))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, rule.bias)

    def forward(self, x: Tensor) -> Tensor:
        value = self.high * torch.sigmoid(_wide(self.linear(x)))
        return value if self.channels is None else value.unflatten(-1, (-1, self.channels))

    def start_at_(self, value: float) -> None:
        """Start at `value` for every token."""
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, math.log(value / (self.high - value)))


@dataclass(frozen=True)
class Softplus(ControlRule):
    """low + log(1 + exp(W x + bias)): above `low` and without an upper end; starts near low + 1 by default."""

    bias: float = 0.5413
    low: float = 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Softplus(self, width, heads, channels)


class _Softplus(nn.Module):
    def __init__(self, rule: Softplus, width: int, heads: int, channels: int | None):
        super().__init__()
        self.channels, self.low = channels, rule.low
        self.linear = nn.Linear(width, heads * (channels or 1))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, rule.bias)

    def forward(self, x: Tensor) -> Tensor:
        value = self.low + F.softplus(_wide(self.linear(x)))
        return value if self.channels is None else value.unflatten(-1, (-1, self.channels))


@dataclass(frozen=True)
class Shares(ControlRule):
    """softmax(W x + b) over the numbers of a head."""

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is not None, "Shares divides 1 between several numbers a head; one a head is Sigmoid's.")
        assert channels is not None
        return _Shares(width, heads, channels)


class _Shares(nn.Module):
    def __init__(self, width: int, heads: int, channels: int):
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(width, heads * channels)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(_wide(self.linear(x)).unflatten(-1, (-1, self.channels)), -1)


@dataclass(frozen=True)
class HeadDecay(ControlRule):
    """1 - 2^(-5-h) for head h: fixed, from 32 tokens of memory upwards (RetNet, arXiv 2307.08621)."""

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Fixed(1 - torch.exp2(-5 - torch.arange(heads, dtype=torch.float64)), channels)


@dataclass(frozen=True)
class Constant(ControlRule):
    """The same value for every token and head."""

    value: float

    @property
    def bounds(self) -> tuple[float, float]:
        return self.value, self.value

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Fixed(torch.full((heads,), self.value, dtype=torch.float64), channels)


@dataclass(frozen=True)
class Learned(ControlRule):
    """low + softplus(a), a learned per head (and channel): the same for every token, `start` at first.

    The way to give a memory a learned tensor that no token changes: the memory declares a control, and stays free of
    parameters.
    """

    low: float = 0.0
    start: float = 1.0

    def __post_init__(self) -> None:
        expect(self.start > self.low, f"Learned(start=) must lie above low={self.low}; got {self.start}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Learned(self, (heads,) if channels is None else (heads, channels))


class _Learned(nn.Module):
    def __init__(self, rule: Learned, shape: tuple[int, ...]):
        super().__init__()
        self.low = rule.low
        above = rule.start - rule.low
        self.raw = nn.Parameter(torch.full(shape, above + math.log(-math.expm1(-above))))  # softplus of it is `above`

    def forward(self, x: Tensor) -> Tensor:
        value = self.low + F.softplus(_wide(self.raw))
        return value.expand(*x.shape[:2], *value.shape)


@dataclass(frozen=True)
class LearnedWeights(ControlRule):
    """Learned numbers a head and channel, of any sign, the same for every token: a matrix of `rows` rows, one behind
    the other. They start uniform within 1/sqrt(columns) of zero.

    shared: the same for all heads.
    """

    rows: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        expect(self.rows >= 1, f"LearnedWeights(rows=) is a number of rows of at least 1; got {self.rows}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(
            channels is not None and channels % self.rows == 0,
            f"LearnedWeights gives a head a matrix of {self.rows} rows; the control has {channels or 1} numbers a "
            "head: use Learned() for a single number.",
        )
        assert channels is not None
        return _LearnedWeights(self, heads, channels)


class _LearnedWeights(nn.Module):
    def __init__(self, rule: LearnedWeights, heads: int, channels: int):
        super().__init__()
        self.heads, bound = heads, (rule.rows / channels) ** 0.5
        self.weight = nn.Parameter(torch.empty(1 if rule.shared else heads, channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return _wide(self.weight).expand(*x.shape[:2], self.heads, -1)


class _Fixed(nn.Module):
    value: Tensor

    def __init__(self, value: Tensor, channels: int | None):
        super().__init__()
        self.register_buffer("value", (value if channels is None else value[:, None].repeat(1, channels)).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(*x.shape[:2], *self.value.shape)


@dataclass(frozen=True)
class GatedDecay(ControlRule):
    """exp(-exp(A) softplus(W x + b)), the decay of Mamba-2 and Gated DeltaNet (arXiv 2412.06464).

    exp(A), one a head, starts uniform in [1, 16] and the time step softplus(b) log-uniform in [0.001, 0.1], so that
    heads start out remembering from one to a thousand tokens.
    rank: W = W_2 W_1 with W_1 of so many rows (Kimi Delta Attention, arXiv 2510.26692, where it is a head's width);
    None for a full W.
    """

    rank: int | None = None

    def __post_init__(self) -> None:
        expect(self.rank is None or self.rank >= 1, f"GatedDecay(rank=) must be at least 1; got {self.rank}.")

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _GatedDecay(self.rank, width, heads, channels)


class _GatedDecay(nn.Module):
    def __init__(self, rank: int | None, width: int, heads: int, channels: int | None):
        super().__init__()
        self.down = None if rank is None else nn.Linear(width, rank, bias=False)
        size = heads * (channels or 1)
        self.channels = channels
        self.linear = nn.Linear(rank or width, size, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)
        self.log_speed = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        step = torch.empty(size).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x if self.down is None else self.down(x))
        step, speed = F.softplus(_wide(y) + self.bias), torch.exp(self.log_speed)
        if self.channels is not None:
            step, speed = step.unflatten(-1, (-1, self.channels)), speed[:, None]
        return torch.exp(-speed * step)

    def start_at_(self, value: float) -> None:
        """Start at `value` for every token, with a time step of 1."""
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.bias, math.log(math.e - 1))
        nn.init.constant_(self.log_speed, math.log(-math.log(value)))


@dataclass(frozen=True)
class LowRankDecay(ControlRule):
    """sigmoid(W_2 W_1 x + b)^(1/temperature) per channel, W_1 of `rank` rows (GLA, arXiv 2312.06635)."""

    rank: int = 16
    temperature: float = 16.0

    def __post_init__(self) -> None:
        expect(self.rank >= 1, f"LowRankDecay(rank=) must be at least 1; got {self.rank}.")
        expect(self.temperature > 0, f"LowRankDecay(temperature=) must be positive; got {self.temperature}.")

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _LowRankDecay(self, width, heads, channels)


class _LowRankDecay(nn.Module):
    def __init__(self, rule: LowRankDecay, width: int, heads: int, channels: int | None):
        super().__init__()
        self.temperature, self.channels = rule.temperature, channels
        self.down = nn.Linear(width, rule.rank, bias=False)
        self.up = nn.Linear(rule.rank, heads * (channels or 1))
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        value = torch.exp(F.logsigmoid(_wide(self.up(self.down(x)))) / self.temperature)
        return value if self.channels is None else value.unflatten(-1, (-1, self.channels))

    def start_at_(self, value: float) -> None:
        """Start at `value` for every token."""
        share = value**self.temperature
        nn.init.zeros_(self.up.weight)
        nn.init.constant_(self.up.bias, math.log(share / (1 - share)))


@dataclass(frozen=True)
class Direction(ControlRule):
    """length * W x / |W x| per head: a vector of key channels."""

    length: float = 1.0

    def __post_init__(self) -> None:
        expect(self.length > 0, f"Direction(length=) must be positive; got {self.length}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.length, self.length

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        if channels is None:
            raise InvalidValue("Direction gives a vector of key channels; for one number a head use Sigmoid.")
        return _Direction(self, width, heads, channels)


class _Direction(nn.Module):
    def __init__(self, rule: Direction, width: int, heads: int, channels: int):
        super().__init__()
        self.length, self.channels = rule.length, channels
        self.linear = nn.Linear(width, heads * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.length * F.normalize(_wide(self.linear(x)).unflatten(-1, (-1, self.channels)), dim=-1)


@dataclass(frozen=True)
class LevelWeights(ControlRule):
    """softplus(L * W x), a weight for each level of a log-linear memory (arXiv 2506.04761); L starts as ones."""

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is not None, "LevelWeights gives a number for each level; one a head is Sigmoid's.")
        assert channels is not None
        return _LevelWeights(width, heads, channels)


class _LevelWeights(nn.Module):
    def __init__(self, width: int, heads: int, levels: int):
        super().__init__()
        self.levels = levels
        self.linear = nn.Linear(width, heads * levels, bias=False)
        self.scale = nn.Parameter(torch.ones(heads * levels))  # of one axis: weight decay leaves it alone

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.scale * _wide(self.linear(x))).unflatten(-1, (-1, self.levels))


@dataclass(frozen=True)
class RelativeTable(ControlRule):
    """q . E_lag / sqrt(key_dim): a bias for every lag from a learned vector a head and lag (arXiv 1809.04281). E starts
    normal with standard deviation 1/sqrt(key_dim)."""

    of = "query"

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is not None, "RelativeTable gives a number for each lag; one a head is Sigmoid's.")
        assert channels is not None
        return _RelativeTable(width // heads, heads, channels)


class _RelativeTable(nn.Module):
    def __init__(self, key_dim: int, heads: int, lags: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(heads, lags, key_dim) / math.sqrt(key_dim))

    def forward(self, q: Tensor) -> Tensor:
        return torch.einsum("bthk,hlk->bthl", q, self.table) / math.sqrt(q.shape[-1])


@dataclass(frozen=True)
class ValuePreference(ControlRule):
    """exp(A softplus(W v)) per head, of the values v of all heads side by side (dynamic mask attention, arXiv
    2412.11834). A, one a head, starts at 1, W normal with standard deviation 0.02: all entries start near 2."""

    of = "value"

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        expect(channels is None, "ValuePreference gives one number a head, not one a channel.")
        return _ValuePreference(width, heads)


class _ValuePreference(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.linear = nn.Linear(width, heads, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)
        self.speed = nn.Parameter(torch.ones(heads))

    def forward(self, v: Tensor) -> Tensor:
        return torch.exp(self.speed * F.softplus(_wide(self.linear(v.flatten(-2)))))


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Phase(ControlRule):
    """W x + b, any number, as an angle: b starts uniform in [0, high] (GateLoop, arXiv 2311.01927)."""

    high: float = math.pi / 10

    def __post_init__(self) -> None:
        expect(self.high >= 0, f"Phase(high=) is an angle of at least 0; got {self.high}.")

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def build(self, width: int, heads: int, channels: int | None) -> nn.Module:
        return _Phase(self, width, heads, channels)


class _Phase(nn.Module):
    def __init__(self, rule: Phase, width: int, heads: int, channels: int | None):
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(width, heads * (channels or 1))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.uniform_(self.linear.bias, 0, rule.high)

    def forward(self, x: Tensor) -> Tensor:
        value = _wide(self.linear(x))
        return value if self.channels is None else value.unflatten(-1, (-1, self.channels))


def default_rule(control: Control, chunk: int) -> ControlRule:
    """What a layer uses for a control that its spec does not mention.

    chunk: tokens that share a gradient point. Their steps add up, and together must stay below 1.
    """
    if control.name in ("delta", "radius"):
        return Softplus()
    if control.name == "threshold":
        return Sigmoid(bias=-4.0, high=0.1)
    if control.name in ("removal", "replacement"):
        return Direction(0.5)
    if control.name == "bias":
        return RelativeTable()
    if control.name == "preference":
        return ValuePreference()
    if control.name.endswith(("_strength", "_sharpness")):
        return Softplus(low=control.low)
    if control.name.endswith("_shift"):
        return Shares()
    if control.name == "carry":
        return Learned(low=-1.0)
    if control.name == "level":
        return LevelWeights()
    if control.name in ("first_bias", "second_weight", "second_bias", "third_weight"):
        return LearnedWeights(rows=control.count if control.name == "second_weight" else 1)
    if control.name == "angle":
        return Phase()
    if control.name in ("damping", "process", "source", "anchor", "freedom", "sharpness"):
        return Learned(low=2 * control.low, start=0.01 if control.name == "damping" else 1.0)
    if control.name in ("decay", "value_decay"):
        return Sigmoid(bias=4.0) if control.per == "head" else LowRankDecay()
    return Sigmoid(high=1 / chunk) if control.name == "rate" else Sigmoid()
