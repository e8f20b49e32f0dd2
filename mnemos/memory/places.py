"""Where key-value memories store their entries: a growing list, a ring, or a table of places."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mnemos.errors import expect
from mnemos.memory.checks import check_sizes
from mnemos.memory.retain import Policy, Window
from mnemos.memory.rotary import check_rotary
from mnemos.state import State

Entries = dict[str, Tensor | State]


def check_start(
    what: str,
    batch: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    weights: Mapping[str, Tensor] | None,
    rotary: float | None,
) -> None:
    """Raises InvalidValue for sizes that cannot be, for weights, which `what` does not take, and for keys that cannot
    be turned to rotary positions."""
    check_sizes(batch, heads, key_dim, value_dim)
    expect(not weights, f"{what} starts empty and takes no weights.")
    check_rotary(rotary, key_dim)


def vacant(
    places: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
    apart: bool = False,
) -> dict[str, Tensor]:
    """One row's empty places: `keys` (1, N, H, K), `values` (1, N, H, V) and `slot` (1, N), position + 1 or 0 for none;
    or where heads have places of their own (`apart`) (1, H, N, .) and (1, H, N)."""
    lead = (1, heads, places) if apart else (1, places, heads)
    return {
        "keys": torch.zeros(*lead, key_dim, dtype=dtype, device=device),
        "values": torch.zeros(*lead, value_dim, dtype=dtype, device=device),
        "slot": torch.zeros(lead if apart else (1, places), dtype=torch.int64, device=device),
    }


def append(state: State, k: Tensor, v: Tensor) -> Entries:
    """k (B, n, H, K), v (B, n, H, V) behind all others."""
    count, number = state["count"], k.shape[1]
    slot = count[:, None] + torch.arange(1, number + 1, device=count.device)
    return {
        "keys": torch.cat([state["keys"], k], 1),
        "values": torch.cat([state["values"], v], 1),
        "slot": torch.cat([state["slot"], slot], 1),
        "count": count + number,
    }


def ring_place(window: Window, position: Tensor) -> Tensor:
    """Where the entry of a position is stored: sinks first, then a ring of the recent ones."""
    return torch.where(position < window.sinks, position, window.sinks + (position - window.sinks) % window.size)


def put_in_ring(window: Window, state: State, k: Tensor, v: Tensor) -> Entries:
    """k, v at their place of the ring; in the state's own tensors if gradients are off."""
    keys, values, slot, count = state["keys"], state["values"], state["slot"], state["count"]
    place = ring_place(window, count)
    if torch.is_grad_enabled():
        here = torch.arange(slot.shape[1], device=slot.device) == place[:, None]
        return {
            "keys": torch.where(here[:, :, None, None], k[:, None], keys),
            "values": torch.where(here[:, :, None, None], v[:, None], values),
            "slot": torch.where(here, (count + 1)[:, None], slot),
            "count": count + 1,
        }
    rows = torch.arange(len(count), device=count.device)
    keys[rows, place], values[rows, place], slot[rows, place] = k, v, count + 1
    count += 1
    return {"keys": keys, "values": values, "slot": slot, "count": count}


def put_in_table(policy: Policy, state: State, k: Tensor, v: Tensor) -> Entries:
    """Several entries k (B, H, n, K), v (B, H, n, V) of which none is followed by an eviction, in free places."""
    number = k.shape[2]
    count = state["count"]
    filled = (state["slot"] > 0).to(torch.uint8)
    one = number == 1
    free = filled.argmin(-1, keepdim=True) if one else filled.argsort(dim=-1, stable=True)[..., :number]  # (B, H, n)
    position = count[:, None, None] + torch.arange(number, device=count.device)  # (B, 1, n)
    new: dict[str, Tensor] = {"keys": k, "values": v, "slot": (position + 1).expand_as(free)}
    start = policy.start(position.expand_as(free).to(statistics_dtype(k.dtype)))
    new |= {f"statistic.{name}": start[name] for name in policy.statistics}
    entries: Entries = {"count": count + number}
    for name, value in new.items():
        index = free if value.ndim == 3 else free[..., None].expand(-1, -1, -1, value.shape[-1])
        held, value = state[name], value.to(state[name].dtype)
        entries[name] = held.scatter(2, index, value) if torch.is_grad_enabled() else held.scatter_(2, index, value)
    return entries


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Positions and sums of weights need more than half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def evict(policy: Policy, state: State) -> State:
    """Each head's table down to the budget, in the rows where an eviction is due."""
    slot, count = state["slot"], state["count"]
    excess = ((slot > 0).sum(-1, keepdim=True) - policy.budget) * (count % policy.period == 0)[:, None, None]
    if not torch.compiler.is_compiling() and not bool((excess > 0).any()):
        return state
    gone = least_worthy(policy, state, excess, policy.period)
    return state.successor(**state.entries | {"slot": torch.where(gone, 0, slot)})


def least_worthy(policy: Policy, state: State, number: Tensor, most: int) -> Tensor:
    """The `number` (B, H, 1) entries of each head that go first, of those that may: (B, H, N) bool. most: a bound of
    `number`."""
    slot, now = state["slot"], (state["count"] - 1)[:, None, None]
    position = slot - 1
    statistics = {name: state[f"statistic.{name}"].detach() for name in policy.statistics}
    worth = policy.worth(statistics, position, now, state["keys"].detach())
    stays = (slot == 0) | (position < policy.sinks) | (position > now - policy.recent)
    worth, age = worth.masked_fill(stays, torch.inf), torch.where(stays, torch.iinfo(torch.int64).max, position)
    if most == 1:  # the oldest of the least worthy
        least = torch.where(worth == worth.amin(-1, keepdim=True), age, torch.iinfo(torch.int64).max)
        first = least.argmin(-1, keepdim=True)
    else:  # by worth, the older one first
        by_age = age.argsort(-1)
        first = by_age.gather(-1, worth.gather(-1, by_age).argsort(dim=-1, stable=True)[..., :most])
    due = torch.arange(first.shape[-1], device=slot.device) < number
    return torch.zeros_like(stays).scatter_(-1, first, due) & ~stays


def observed(policy: Policy, state: State, weights: Tensor) -> State:
    """The state after its newest token has read with `weights` (B, H, N)."""
    if not policy.statistics:
        return state
    statistics = {name: state[f"statistic.{name}"].detach() for name in policy.statistics}
    position, now = state["slot"] - 1, (state["count"] - 1)[:, None, None]
    weights = weights.detach().to(next(iter(statistics.values())).dtype)
    seen = policy.observe(statistics, weights, position, now)
    return state.successor(**state.entries | {f"statistic.{name}": seen[name] for name in policy.statistics})
