"""Several memories in one layer, of which a router picks a few for each token (mixture of memories)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnemos.errors import expect, expect_kind
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.memory import CoreContext, KVMemory
from mnemos.state import State

BLOCK = 32
"""A memory's tokens are filled up to a multiple of this, as the chunk algorithms would do anyway."""


@dataclass(frozen=True)
class Mixture(LayerDeclaration):
    """A mixture of memories (MoM, arXiv 2502.13685): `count` memories that share queries, convolution, norm, gate and
    output, each with keys, values and controls of its own.

        p_t = softmax(R x_t)                  the router, in float32
        w_t = p_t on its `active` largest entries, divided by their sum; 0 elsewhere
        M^m written with token t where w_tm was picked; left alone, to the last bit, where it was not
        o_t = sum_m w_tm M^m(q_t)  (+ M^shared(q_t))

    Ties go to the lower index. A memory sees its own tokens as if they stood next to each other: so does the short
    convolution, and the rotation counts its own tokens.

    layer: the layer around each memory. count: routed memories. active: how many of them a token goes to; with 1 the
    weight is always 1, and only the balance loss reaches the router. shared: one more memory that every token writes
    and reads with weight 1. balance: what the balance loss counts in training (see `balanced`).
    """

    layer: LayerSpec
    count: int = 4
    active: int = 2
    shared: bool = False
    balance: float = 0.01

    def __post_init__(self) -> None:
        expect_kind(self.layer, LayerSpec, "layer", "zoo.gated_deltanet()")
        expect(self.count >= 1, f"Mixture(count=) is a number of memories of at least 1; got {self.count}.")
        expect(
            1 <= self.active <= self.count,
            f"Mixture(active=) lies between 1 and count={self.count}; got {self.active}.",
        )
        expect(self.balance >= 0, f"Mixture(balance=) is a factor of at least 0; got {self.balance}.")
        expect(
            not isinstance(self.layer.memory, KVMemory | CoreContext),
            "Mixture(layer=) is a layer whose memory learns; key-value memories grow with their tokens: use Memory().",
        )
        expect(
            self.layer.persistent == 0,
            "Mixture(layer=) takes no persistent tokens: the router sends each memory tokens of its own.",
        )

    @property
    def kept(self) -> str:
        shared = " and a shared one" if self.shared else ""
        return f"{self.count} routed memories{shared} of {self.layer.kept}"

    def build(self, width: int, heads: int) -> MixtureLayer:
        return MixtureLayer(self, width, heads)


@dataclass(frozen=True)
class Routing:
    """Where tokens go. weights (B, T, count): 0 where not picked. picked (B, T, count) bool, False for padding.
    probabilities (B, T, count): of the softmax, 0 for padding. tokens: how many are real."""

    weights: Tensor
    picked: Tensor
    probabilities: Tensor
    tokens: Tensor


class Router(nn.Module):
    """The softmax over memories and its largest entries."""

    def __init__(self, spec: Mixture, width: int):
        super().__init__()
        self.active, self.balance = spec.active, spec.balance
        self.linear = nn.Linear(width, spec.count, bias=False)

    def forward(self, x: Tensor, live: Tensor) -> Routing:
        """x (B, T, width), live (B, T) bool -> where each token goes."""
        with torch.autocast(x.device.type, enabled=False):  # near ties are not to depend on the precision
            wide = x if x.dtype == torch.float64 else x.float()
            scores = torch.softmax(wide @ self.linear.weight.to(wide.dtype).mT, -1)
        best = torch.argsort(scores, dim=-1, descending=True, stable=True)[..., : self.active]
        picked = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
        chosen = scores * picked
        weights = chosen / chosen.sum(-1, keepdim=True)
        live = live[..., None]
        return Routing(weights * live, picked & live, scores * live, live.sum())


class _Member(nn.Module):
    """What one memory has for itself."""

    def __init__(self, layer: MemoryLayer):
        super().__init__()
        self.key_value = nn.Linear(layer.width, sum(layer.sizes[1:]), bias=False)
        self.controls, self.initial = layer.controls, layer.initial


class MixtureLayer(Layer):
    """The layer that `Mixture` describes. Its state: one of the inner layer for each memory, the shared one last."""

    def __init__(self, spec: Mixture, width: int, heads: int):
        super().__init__()
        self.spec, self.width, self.heads = spec, width, heads
        layers = [spec.layer.build(width, heads) for _ in range(spec.count + spec.shared)]
        self.members = nn.ModuleList(_Member(layer) for layer in layers)
        self.layer = layers[0]  # for all that the memories share
        self.layer.project = nn.Linear(width, self.layer.sizes[0], bias=False)
        self.layer.controls, self.layer.initial = nn.ModuleDict(), nn.ParameterDict()
        self.router = Router(spec, width)

    def fresh_state(self) -> State:
        parts = [self.layer.fresh_recall(dict(member.initial.items())) for member in self._members()]
        return State(self.owner, {str(m): part for m, part in enumerate(parts)})

    def rows(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        batch, time = x.shape[:2]
        parts = [state.child(str(m)) for m in range(len(self.members))]
        for part in parts:
            _refuse_if_spent(part)  # before any of them is moved on
        live = torch.ones(batch, time, dtype=torch.bool, device=x.device)
        if lengths is not None:
            live = torch.arange(time, device=x.device) < lengths[:, None]
        routing = self.router(x, live)
        queries = self.layer.project(x)
        total = queries.new_zeros(batch, time, self.heads, self.layer.value_dim)
        after: dict[str, Tensor | State] = {}
        for m, part in enumerate(parts):
            if m == self.spec.count:
                o, after[str(m)] = self._recall(m, x, queries, part, lengths)
                total = total + o
                continue
            tokens = _Compacted.of(routing.picked[..., m])
            if tokens.size == 0:
                after[str(m)] = part
                continue
            o, after[str(m)] = self._recall(m, tokens.take(x), tokens.take(queries), part, tokens.lengths)
            total = total + tokens.give_back(o) * routing.weights[..., m, None, None].to(o.dtype)
        return self.layer.finish(total, x), state.successor(**after)

    def _recall(self, m: int, x: Tensor, queries: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """What memory m answers to tokens of its own."""
        member = self._members()[m]
        controls = {name: rule(x) for name, rule in member.controls.items()}
        return self.layer.recall(torch.cat([queries, member.key_value(x)], -1), controls, state, lengths)

    def _members(self) -> list[_Member]:
        return list(self.members)  # pyright: ignore[reportReturnType]

    def balance(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The balance loss of these tokens, a scalar: count * sum_m f_m P_m, with f_m memory m's share of all picks
        and P_m its mean probability. 1 where all are alike; `count` where one memory gets everything with certainty.

        x (batch, time, width), what the layer is given; mask (batch, time) bool, False for padding.
        """
        live = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        return balance_loss([self.router(x, live)])

    def explain(self, length: int = 4096, batch: int = 1, training: bool = False) -> str:
        share = self._share(length)
        shared = ", and a shared one for all of them" if self.spec.shared else ""
        return (
            f"{self.spec.count} memories, {self.spec.active} for each token{shared}; one of them, on its {share} of "
            f"{length} tokens:\n{self.layer.explain(share, batch, training)}"
        )

    def flops(self, length: int) -> float:
        """With tokens shared out evenly."""
        one, share = _matrices(self._members()[0]), self._share(length)
        inner = self.spec.count * (self.layer.plan(share).flops + 2.0 * one * share)
        if self.spec.shared:
            inner += self.layer.plan(length).flops + 2.0 * one * length
        return inner + 2.0 * length * (_matrices(self.layer) + _matrices(self.router))

    def _share(self, length: int) -> int:
        return max(1, length * self.spec.active // self.spec.count)


@dataclass(frozen=True)
class _Compacted:
    """The tokens of one memory, moved to the front of their rows in the order of time."""

    picked: Tensor
    order: Tensor
    lengths: Tensor
    size: int

    @staticmethod
    def of(picked: Tensor) -> _Compacted:
        """picked (B, T) bool."""
        lengths, time = picked.sum(1), picked.shape[1]
        size = time
        if not torch.compiler.is_compiling():  # only as long as the longest row
            longest = int(lengths.max())
            size = min(time, longest + -longest % BLOCK)
        order = torch.argsort((~picked).long(), dim=1, stable=True)[:, :size]
        return _Compacted(picked, order, lengths, size)

    def take(self, x: Tensor) -> Tensor:
        """(B, T, channels) -> (B, size, channels)."""
        return x.gather(1, self.order[..., None].expand(-1, -1, x.shape[-1]))

    def give_back(self, y: Tensor) -> Tensor:
        """(B, size, H, V) -> (B, T, H, V), each token at its own place; zero for the others."""
        place = (self.picked.long().cumsum(1) - 1).clamp(min=0)[..., None, None]
        spread = y.gather(1, place.expand(-1, -1, *y.shape[2:]))
        return torch.where(self.picked[..., None, None], spread, 0.0)


def balance_loss(routings: list[Routing]) -> Tensor:
    """The balance loss of all these routings by one router together (arXiv 2502.13685; Switch, arXiv 2101.03961)."""
    picks = torch.stack([r.picked.flatten(0, 1).sum(0) for r in routings]).sum(0)
    probability = torch.stack([r.probabilities.flatten(0, 1).sum(0) for r in routings]).sum(0)
    tokens = torch.stack([r.tokens for r in routings]).sum().clamp(min=1)
    share = picks.to(probability.dtype) / picks.sum().clamp(min=1)
    return len(share) * (share * probability).sum() / tokens


@contextmanager
def balanced(model: nn.Module) -> Iterator[Callable[[], Tensor | float]]:
    """Listens to all routers inside `model` while the context is open:

        with balanced(model) as balance:
            logits, state = model(tokens)
        loss = cross_entropy(logits, targets) + balance()

    `balance()` is the sum over the mixtures of `Mixture.balance` times their balance loss on what they were given
    meanwhile; 0.0 for a model without mixtures.
    """
    routers = [module for module in model.modules() if isinstance(module, Router) and module.balance]
    heard: dict[nn.Module, list[Routing]] = {router: [] for router in routers}

    def hear(router: nn.Module, inputs: Any, routing: Any) -> None:
        heard[router].append(routing)

    hooks = [router.register_forward_hook(hear) for router in routers]
    try:
        yield lambda: sum(r.balance * balance_loss(heard[r]) for r in routers if heard[r])
    finally:
        for hook in hooks:
            hook.remove()


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)


def _refuse_if_spent(state: State) -> None:
    state.refuse_if_spent()
    for value in state.entries.values():
        if isinstance(value, State):
            _refuse_if_spent(value)
