"""The literal form of higher-order linear attention."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.higher_order import HigherOrder
from mnemos.state import State


def add_up(
    memory: HigherOrder, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """The sums, one token after another, as `HigherOrder` states them."""
    held = {name: state[name].double() for name in state.entries}
    asked = controls["query"]
    outputs = []
    for t in range(k.shape[1]):
        live = torch.ones(k.shape[0], dtype=torch.bool, device=k.device) if lengths is None else t < lengths
        g = controls["decay"][:, t, :, None, None] if memory.decay else torch.ones((), dtype=torch.float64)
        key, value, query = k[:, t], v[:, t], asked[:, t]
        new: dict[str, Tensor] = {}
        if memory.form == "second":
            found = torch.einsum("bhi,bhiv->bhv", key, g * held["query_sum"])
            new["late_sum"] = g**2 * held["late_sum"] + torch.einsum("bhi,bhv->bhiv", key, found)
            new["key_sum"] = g * held["key_sum"] + torch.einsum("bhi,bhj->bhij", key, key)
            new["query_sum"] = g * held["query_sum"] + torch.einsum("bhi,bhv->bhiv", query, value)
        else:
            new["value_sum"] = g * held["value_sum"] + torch.einsum("bhi,bhv->bhiv", key, value)
            inner = torch.einsum("bhi,bhiv->bhv", query, new["value_sum"])
            outer = key
            if memory.form == "third":
                new["key_sum"] = g * held["key_sum"] + torch.einsum("bhi,bhj->bhij", key, key)
                outer = torch.einsum("bhij,bhj->bhi", new["key_sum"], query)
            new["nested_sum"] = g * held["nested_sum"] + torch.einsum("bhi,bhv->bhiv", outer, inner)
        held = {name: torch.where(live[:, None, None, None], x, held[name]) for name, x in new.items()}
        if memory.form == "second":
            at = torch.einsum("bhij,bhjv->bhiv", held["key_sum"], held["query_sum"]) - held["late_sum"]
        else:
            at = held["nested_sum"]
        outputs.append(torch.einsum("bhi,bhiv->bhv", q[:, t], at))
    out = torch.stack(outputs, 1) if outputs else v.new_zeros(v.shape)
    return out, state.successor(**held)
