"""Attention within clusters that choose their tokens from the whole sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.layers import Centroids, Standard
from mnemos.layers.base import check_width
from mnemos.memory.checks import check_finite
from mnemos.memory.rotary import check_rotary, rotate
from mnemos.models.network import NetworkDeclaration

SHARE = 0.01
"""Added to the number of clusters that hold a token, so that one held by none divides by something."""


@dataclass(frozen=True)
class BalancedRoutingSpec(NetworkDeclaration):
    """Routing attention as published (arXiv 2003.05997): every cluster takes its best tokens of the whole sequence.
    For each head, with centroids m_c that follow the r_t,

        r_t = layer norm(W_r x_t) without gain and shift,   v_t = W_v x_t
        S_c = the `window` tokens with the highest r_t . m_c, of equal ones the earliest; all where there are fewer
        o_ct = sum_s softmax_s(scale r_t . r_s) v_s   over the s <= t of S_c
        y_t = W_o sum_c o_ct / (n_t + 0.01)           over the n_t clusters that took t; 0 where none did

    so that all clusters are of one size, and a token is in none, one or several. Every softmax is causal, the choice
    of S_c is not: it **leaks the future**. A later token that takes an earlier one's place in a cluster changes what
    that one and its neighbours answer. Next-token losses are therefore too low, nothing can be streamed, and outputs
    for a prefix are not those of the whole; `window` of at least the length has no leak. The causal form is
    `mnemos.memory.ClusteredWindow`, the system with it `mnemos.zoo.routing_transformer`.

    width: channels of x, a multiple of heads. clusters, window: a head's clusters, and the tokens of each; the paper
    takes a window of about length / clusters. centroids: how they follow, under `mnemos.layers.followed`, and the
    factor of their loss. scale: None for 1/sqrt(width / heads). rotary: base of rotary positions in the scores, those
    of the sequence, or None; the choice knows no positions. Raises InvalidValue for what lies outside these.
    """

    width: int
    heads: int
    clusters: int = 16
    window: int = 256
    centroids: Centroids = field(default_factory=Centroids)
    scale: float | None = None
    rotary: float | None = None

    def __post_init__(self) -> None:
        check_width(self.width, self.heads)
        expect(self.clusters >= 1, f"BalancedRoutingSpec(clusters=) is at least 1; got {self.clusters}.")
        expect(self.window >= 1, f"BalancedRoutingSpec(window=) is at least 1; got {self.window}.")
        expect(self.scale is None or self.scale > 0, f"BalancedRoutingSpec(scale=) must be positive; got {self.scale}.")
        expect(
            self.rotary is None or self.rotary > 1,
            f"BalancedRoutingSpec(rotary=) is a base above 1; got {self.rotary}.",
        )
        check_rotary(self.rotary, self.width // self.heads)

    @property
    def kept(self) -> str:
        return f"the whole sequence, read by {self.clusters} clusters of {self.window} tokens"

    def build(self) -> BalancedRouting:
        return BalancedRouting(self)

    def example(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor]:
        """Twenty-four tokens."""
        return (torch.randn(batch, 24, self.width, generator=generator),)


class BalancedRouting(nn.Module):
    """What a `BalancedRoutingSpec` declares."""

    def __init__(self, spec: BalancedRoutingSpec):
        super().__init__()
        self.spec, width = spec, spec.width
        self.project = nn.Linear(width, 2 * width, bias=False)
        self.affinity = spec.centroids.build(width, spec.heads, spec.clusters)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """y (B, T, width) of x (B, T, width), floating point. y_t reads no token behind t, but which ones it reads
        depends on all of them.

        lengths: (B,) int64 in [0, T], of rows with fewer than T tokens; what lies beyond is ignored, and its y is 0.
        Raises InvalidType for other dtypes, InvalidValue for other shapes, for lengths out of range and for NaN.
        """
        x, real = self._checked(x, lengths)
        r, v = self._projected(x)
        with torch.autocast(x.device.type, enabled=False):  # half precision would make equals of many
            affinity = self.affinity(r)
        o = self._attended(r.to(v.dtype), v, self._chosen(affinity, real))
        if real is not None:
            o = o.masked_fill(~real[:, :, None, None], 0)
        return self.out(o.flatten(2))

    @torch.no_grad()
    def members(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The tokens of every cluster, (B, heads, clusters, min(window, T)) positions in ascending order. In a row with
        fewer tokens than that, those at or beyond its length stand for none. x, lengths and errors as for `forward`."""
        x, real = self._checked(x, lengths)
        r, _ = self._projected(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._chosen(self.affinity.forward(r), real)  # unheard by `followed`

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r and v, (B, T, heads, width / heads)."""
        r, v = (y.unflatten(-1, (self.spec.heads, -1)) for y in self.project(x).chunk(2, -1))
        return Standard()(r), v

    def _chosen(self, affinity: Tensor, real: Tensor | None) -> Tensor:
        """The positions (B, H, C, w) with the highest `affinity` (B, T, H, C), in ascending order."""
        # Equal tokens differ by rounding, which must not decide.
        ranked = (affinity / (self.spec.width // self.spec.heads)).round(decimals=6)
        if real is not None:
            ranked = ranked.masked_fill(~real[:, :, None, None], -torch.inf)
        order = ranked.permute(0, 2, 3, 1).sort(dim=-1, descending=True, stable=True).indices
        return order[..., : self.spec.window].sort(-1).values

    def _attended(self, r: Tensor, v: Tensor, members: Tensor) -> Tensor:
        """The mean over clusters (B, T, H, V) of causal attention within each of them."""
        spec, time = self.spec, v.shape[1]
        scale = spec.scale or 1 / math.sqrt(r.shape[-1])
        if spec.rotary is not None:
            r = rotate(r, torch.arange(time, device=r.device), spec.rotary)
        place = members.flatten(2)  # (B, H, C w)
        places = place[..., None].expand(-1, -1, -1, v.shape[-1])  # keys are as wide as values
        keys, values = (y.transpose(1, 2).gather(2, places).unflatten(2, members.shape[2:]) for y in (r, v))
        keys, values = keys.flatten(1, 2), values.flatten(1, 2)  # (B, H C, w, K)
        answers = F.scaled_dot_product_attention(keys, keys, values, is_causal=True, scale=scale)
        answers = answers.unflatten(1, members.shape[1:3]).flatten(2, 3)  # (B, H, C w, V)
        wide = answers if answers.dtype == torch.float64 else answers.float()
        start = wide.new_zeros(*place.shape[:2], time, v.shape[-1])
        total = start.scatter_add(2, places, wide)
        number = start[..., 0].scatter_add(2, place, torch.ones_like(wide[..., 0]))
        return (total / (number[..., None] + SHARE)).to(v.dtype).transpose(1, 2)

    def _checked(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x with zeros beyond the lengths, and which tokens there are (B, T), None for all."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InvalidType(f"x must be a floating point tensor; got {getattr(x, 'dtype', type(x).__name__)}.")
        if x.ndim != 3 or x.shape[-1] != self.spec.width:
            raise InvalidValue(f"x must be (batch, time, {self.spec.width}); got shape {tuple(x.shape)}.")
        batch, time = x.shape[:2]
        real = None
        if lengths is not None:
            if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64:
                given = getattr(lengths, "dtype", type(lengths).__name__)
                raise InvalidType(f"lengths must be an int64 tensor; got {given}.")
            if lengths.shape != (batch,):
                raise InvalidValue(f"lengths must have shape ({batch},); got {tuple(lengths.shape)}.")
            if batch and not 0 <= int(lengths.min()) <= int(lengths.max()) <= time:
                raise InvalidValue(f"lengths must lie in [0, {time}]; got {lengths.tolist()}.")
            real = torch.arange(time, device=x.device) < lengths[:, None]
            x = x.masked_fill(~real[:, :, None], 0)
        check_finite("x", x)
        return x, real
